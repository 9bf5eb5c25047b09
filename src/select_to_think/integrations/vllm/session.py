"""A session whose SLM runs in vLLM: methods, thresholds, prompts and the LLM are those of any session.

Non-goals: the server (`plugin.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from select_to_think.config import MethodSettings, PairConfig, RuntimeConfig
from select_to_think.contexts.protocol import Backend
from select_to_think.integrations.vllm.backend import VllmBackend
from select_to_think.methods import SLM, Decoder
from select_to_think.models.exported import Exported, read_exported
from select_to_think.models.loading import LoadedModel
from select_to_think.models.scorer import Scorer
from select_to_think.models.tokenizer import load_tokenizer
from select_to_think.policies.ahead import ahead, require_watchable
from select_to_think.session import Session
from select_to_think.structures import Role, S2TError
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.table import find_trigger

FLAGS = (
    "vllm serve FOLDER --enable-lora --max-loras 2 --max-lora-rank RANK --logprobs-mode processed_logprobs "
    "--logits-processors select_to_think.integrations.vllm.processor:PauseProcessor"
)


@dataclass(frozen=True)
class InEngine(LoadedModel):
    """A model whose weights vLLM has; `model` is its shape alone."""

    exported: Exported = field(kw_only=True)
    room: int = field(kw_only=True)

    def __post_init__(self) -> None:
        """The fingerprint is written beside the weights."""
        object.__setattr__(self, "fingerprint", self.exported.copy_fingerprint)

    @property
    def device(self) -> torch.device:
        """Where results are read."""
        return torch.device("cpu")

    @property
    def max_positions(self) -> int:
        """The engine's context, less the token that it writes to score the last candidate."""
        return self.room - 1


def shape_of(folder: Path, room: int) -> InEngine:
    """An exported SLM without its weights.

    Raises:
        S2TError: it is none.
    """
    exported = read_exported(folder)
    if exported.format not in ("vllm", "merged"):
        raise S2TError(f"{folder} was exported as {exported.format}: vLLM needs `s2t export --format vllm` or merged")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).eval()
    model.generation_config = GenerationConfig.from_pretrained(folder)
    tokenizer = load_tokenizer(str(folder), trust_remote_code=False)
    return InEngine(model, tokenizer, exported.slm, exported=exported, room=room)


class VllmSession(Session):
    """A pair whose SLM an engine of vLLM runs."""

    def __init__(
        self, client: Any, loop: asyncio.AbstractEventLoop, config: PairConfig, runtime: RuntimeConfig = RuntimeConfig()
    ) -> None:
        """Use `client`, an `EngineClient` of vLLM that lives in `loop`, on an exported SLM.

        Raises:
            S2TError: no exported SLM, or an engine that was started without what this needs.
        """
        settings = client.vllm_config
        folder = Path(settings.model_config.model)
        shape = shape_of(folder, settings.model_config.max_model_len)
        check(settings, adapters=shape.exported.format == "vllm")
        super().__init__(replace(config, slm=str(folder)), runtime=runtime)
        self._slm = shape
        self.engine, self.loop = client, loop

    @property
    def guesses(self) -> bool:
        """No: an engine that goes on alone is not taken back."""
        return False

    @property
    def incomparable_llm(self) -> str | None:
        """What a comparison of every step with the LLM's lacks."""
        return "our own runtime, as vLLM's sampler is not shown the LLM"

    def trigger(self, name: str, budget: float, coupled: Scorer | None = None, warm_up_steps: int = 0) -> Trigger:
        """A trigger that the engine can watch for.

        Raises:
            S2TError: it cannot, with the reason.
        """
        require_watchable(find_trigger(name))
        return super().trigger(name, budget, coupled, warm_up_steps)

    @property
    def shortened(self) -> str:
        """Nothing: the context is as long as the engine was told."""
        return ""

    def make_backend(self, model: str) -> Backend:
        """The SLM in the engine, the LLM as in any session."""
        if model != "slm":
            return super().make_backend(model)
        return VllmBackend(self.engine, self.loop, self.exported)

    @property
    def exported(self) -> Exported:
        """What the folder says of itself."""
        assert isinstance(self.slm, InEngine)
        return self.slm.exported

    def adapter(self, folder: Path, bin_rows: Tensor | None = None, merged: bool = False) -> str:
        """Let the engine load a LoRA when it first needs it; the score rows are in the SLM's head."""
        backend = self.backend("slm")
        assert isinstance(backend, VllmBackend)
        return backend.add_adapter(folder)

    def adapted(self, scorer: Scorer) -> Role:
        """The SLM with a scorer's adapter on, which may be merged into it."""
        return SLM if scorer.merged else super().adapted(scorer)

    def decoder(self, method: str, settings: MethodSettings = MethodSettings()) -> Decoder:
        """A method made ready, in the form that leaves decoding to the engine.

        Raises:
            S2TError: it has none.
        """
        decoder = super().decoder(method, settings)
        most = self.engine.vllm_config.model_config.max_logprobs
        wanted = max(settings.alternatives, settings.select.candidates) + 1
        if 0 <= most < wanted:
            raise S2TError(
                f"the engine tells {most} log-probabilities of a step: start it with --max-logprobs {wanted}"
            )
        try:
            return replace(decoder, policy=ahead(decoder.policy))
        except S2TError as error:
            raise S2TError(f"{method} does not run in vLLM: {error}") from error

    def scorer(self, select: Any) -> Scorer:
        """The scorer beside the exported SLM.

        Raises:
            S2TError: its candidates need keys and values of the plain SLM, which vLLM keeps apart from those under an
                adapter.
        """
        scorer = super().scorer(select)
        if scorer.mode == "activated":
            raise S2TError(
                f"the scorer in {scorer.path} is activated: it reads keys and values of the plain SLM under an "
                "adapter, and vLLM keeps the two apart; export a coupled or a proposer one"
            )
        return scorer


def check(settings: Any, *, adapters: bool) -> None:
    """Raise S2TError for an engine that was started without what decoding here needs."""
    if settings.model_config.logprobs_mode != "processed_logprobs":
        raise S2TError(f"vLLM must tell log-probabilities behind the logits processor: start it as {FLAGS}")
    named = settings.model_config.logits_processors or ()
    if not any("PauseProcessor" in str(each) for each in named):
        raise S2TError(f"vLLM was started without our logits processor: start it as {FLAGS}")
    if getattr(settings, "speculative_config", None) is not None:
        raise S2TError("a trigger watches single steps: start vLLM without --speculative-config")
    if adapters and (settings.lora_config is None or settings.lora_config.max_loras < 2):
        # on a CPU, vLLM 0.32 gives sequences without an adapter the last place of those for adapters: it must be empty
        raise S2TError(f"vLLM was started without a place for a LoRA and an empty one: start it as {FLAGS}")
