"""Every setting of the trainings and its default, written once; see `config.py`.

Non-goals: checking values (`checked.py`), and anything that depends on torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from select_to_think.checked import Checked, option
from select_to_think.config import Definition, DistillKind, Reporter, ScoreKind, ScorerMode
from select_to_think.structures import S2TError
from select_to_think.triggers.kl import SUPPORT

INDIFFERENT = ("micro_batch", "gradient_checkpointing", "report_to")  # of a training: what it takes, not what it learns


@dataclass(frozen=True)
class AdapterTraining(Checked):
    """What every training of a LoRA adapter has."""

    lora_rank: int = option(32, "Rank of the LoRA on attention and MLP.", low=1)
    lora_alpha: float = option(64.0, "LoRA scale numerator.", low=0.0)
    learning_rate: float = option(1e-3, "Peak learning rate.", low=0.0)
    epochs: float = option(3.0, "Passes over the collection; early stopping may end sooner.", low=0.01)
    batch_trajectories: int = option(16, "Trajectories per optimiser step.", low=1)
    micro_batch: int = option(0, "Trajectories per forward, if a step does not fit into memory; 0 = all.", low=0)
    gradient_checkpointing: bool = option(
        False, "Compute each layer again in the backward pass: about a third slower, a fraction of the memory."
    )
    patience: int = option(2, "Epochs without a better validation before stopping.", low=1)
    bf16: bool = option(False, "bfloat16 autocast (the trained weights stay float32).")
    report_to: Reporter = option("none", "Where curves go as well.")

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that can change what is learned: a training that goes on may have others in their place."""
        return {name: value for name, value in asdict(self).items() if name not in INDIFFERENT}


@dataclass(frozen=True)
class ScorerConfig(AdapterTraining):
    """Training of the S2T-Local scorer."""

    mode: ScorerMode = option("activated", "What the adapter acts on: every token, or only what scores.")
    score: ScoreKind = option("anchored", "bins (the paper), or plus a multiple of log p: anchored, adapted.")
    bins: int = option(16, "Score bins, equally spaced from 0 to 1.", low=2)
    score_temperature: float = option(
        0.1, "Temperature of the softmax over scores. Scores lie in [0, 1]: at 1.0 nothing can be fitted.", low=0.001
    )
    group_kl_weight: float = option(0.0, "Weight of KL to the LLM's distribution over the candidates.", low=0.0)
    lm_kl_weight: float = option(1.0, "coupled: weight of KL to the frozen SLM on ordinary tokens.", low=0.0)
    packed: bool = option(True, "One forward per trajectory; off = one row per candidate (the plain form).")


@dataclass(frozen=True)
class DistillConfig(AdapterTraining):
    """Training of the distillation baseline; the defaults are those of the scorer, so both take as many steps."""

    kind: DistillKind = option(
        "kd", "kd: the LLM's next-token distribution on the SLM's own rollouts; sft: the LLM's own answers."
    )
    llm_top_k: int = option(
        0,
        "kd: learn from the LLM's K most probable tokens and the rest as one, asked once; 0: all, in process.",
        low=0,
        high=SUPPORT,
    )


@dataclass(frozen=True)
class TriggerTrainConfig(Checked):
    """Training of the learned trigger: a head on the SLM's last hidden state that predicts the KL trigger."""

    trigger_budget: float = option(0.1, "Fraction of steps that the KL trigger marks as positive.", low=0.0, high=1.0)
    hidden_size: int = option(64, "Width of the head's hidden layer; 0 makes it linear.", low=0)
    learning_rate: float = option(1e-3, "Peak learning rate.", low=0.0)
    epochs: float = option(40.0, "Passes over the collected steps.", low=0.01)
    batch_steps: int = option(512, "Steps per optimiser step.", low=1)


@dataclass(frozen=True)
class VerifierTrainConfig(Checked):
    """Training of the verifier of mentor-mlp: which of two segments leads to the right answer?"""

    items: int = option(600, "Problems per domain at whose disagreements it learns.", low=1)
    epochs: float = option(8.0, "Passes over the disputes.", low=0.01)
    learning_rate: float = option(1e-3, "Peak learning rate.", low=0.0)
    batch_prompts: int = option(64, "Prompts per optimiser step.", low=2)
    weight_decay: float = option(0.01, "Weight decay.", low=0.0)
    network: Definition = option("ours", "paper: no norm and no ReLU behind the third layer.")

    def __post_init__(self) -> None:
        """Raise S2TError for a number of prompts that could leave one alone, which a batch norm cannot take."""
        super().__post_init__()
        if self.batch_prompts % 2:
            raise S2TError(f"batch_prompts must be even, got {self.batch_prompts}: a dispute is two prompts")


@dataclass(frozen=True)
class TrainShape(Checked):
    """A trajectory of a published shape with random weights, on which `s2t bench train` times."""

    shape: str = option("none", "A published shape with random weights, such as qwen2.5-0.5b; none: the pair itself.")
    tokens: int = option(500, "Tokens of the shape's trajectory.", low=1)
    groups: int = option(40, "Triggered steps in it.", low=1)
    group_size: int = option(16, "Candidates at each.", low=2)
    plain_rows: int = option(10, "Rows of the plain form that are timed; the others follow from them.", low=1)

    def __post_init__(self) -> None:
        """Raise S2TError for more groups than tokens, or more rows than candidates."""
        super().__post_init__()
        if self.groups > self.tokens or self.plain_rows > self.groups * self.group_size:
            raise S2TError("the shape has more groups than tokens, or more plain rows than candidates")
