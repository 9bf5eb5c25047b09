"""What is trained: an SLM with an adapter; distilled, or a scorer with score rows and an anchor, packed or plain.

Non-goals: optimisation (`training/trainer.py`), inference (`selectors/scorer.py` on `contexts/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from select_to_think.contexts.flat_model import logits_of
from select_to_think.contexts.packed import (
    Leaves,
    base_leaf_forward,
    checkpointed,
    one_row_per_leaf,
    packed_forward,
    plain_forward,
)
from select_to_think.models.adapter import inject_adapter
from select_to_think.probability import bucketed_kl_nats, expected_bin, log_probabilities, permitted
from select_to_think.training.losses import by_rows, choice_logits, choice_loss, group_kl, in_rows, language_kl
from select_to_think.training.settings import AdapterTraining, DistillConfig, ScorerConfig


class AdapterModule(nn.Module):
    """Only the adapter (and what a subclass adds) has gradients, and only that is in `state_dict`.

    The SLM stays in evaluation mode. While training runs the adapter is active; `lent` gives the SLM back as it was.
    """

    forbidden: Tensor  # (reserved ids,)

    def __init__(self, model: PreTrainedModel, settings: AdapterTraining, forbidden: Sequence[int]) -> None:
        """Inject a fresh adapter into `model`. `forbidden`: reserved ids, no part of the ordinary vocabulary."""
        super().__init__()
        self.slm = model
        self.gradient_checkpointing = settings.gradient_checkpointing
        self.switch = inject_adapter(model, settings.lora_rank, settings.lora_alpha)
        self.switch.set_active(True)
        for _, weight in self.switch.weights():
            weight.data = weight.data.float()
        self.register_buffer(
            "forbidden", torch.tensor(sorted(forbidden), dtype=torch.long, device=model.device), persistent=False
        )

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return dict(self.switch.weights())

    @property
    def vocabulary(self) -> int:
        """Rows of the vocabulary head."""
        return int(self.slm.config.get_text_config().vocab_size)

    def train(self, mode: bool = True) -> Self:
        """Dropout of the SLM stays off: a packed pass and a plain one must see the same function."""
        self.training = mode
        self.slm.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained tensors only."""
        return {name: tensor.detach() for name, tensor in self.trained().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take the trained tensors back."""
        own = self.trained()
        missing = [name for name in own if name not in state_dict]
        if missing:
            raise KeyError(f"checkpoint lacks {missing[0]}")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state_dict[name])
        return torch.nn.modules.module._IncompatibleKeys([], [])

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Train within the block; at its end the adapter is out of the SLM, and the SLM back on its device."""
        device = self.slm.device
        try:
            with checkpointed(self.slm) if self.gradient_checkpointing else nullcontext():
                yield
        finally:
            self.switch.set_active(False)
            self.slm.to(device)  # type: ignore[arg-type]


class ScorerModule(AdapterModule):
    """An adapter, the score rows and (anchored, adapted) the anchor.

    The score rows start as zeros, so every candidate starts at 0.5: the anchored score starts at the SLM's greedy
    choice. Reserved rows of the head would start no better (unused rows are nearly equal), and many heads have none.
    """

    def __init__(self, model: PreTrainedModel, config: ScorerConfig, forbidden: Sequence[int]) -> None:
        """See `AdapterModule`."""
        super().__init__(model, config, forbidden)
        self.settings = config  # not `config`: the Trainer would take it for the model's own
        hidden_size = model.config.get_text_config().hidden_size
        self.bin_rows = nn.Parameter(torch.zeros(config.bins, hidden_size, device=model.device))
        self.anchor = nn.Parameter(torch.ones(1, device=model.device), requires_grad=config.score != "bins")

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {**super().trained(), "bins": self.bin_rows, "anchor": self.anchor}

    @property
    def reads_own(self) -> bool:
        """Whether the adapted model's own distribution anchors the score: where it proposes, or by choice."""
        return self.settings.score == "adapted" or (self.settings.mode, self.settings.score) == ("coupled", "anchored")

    @property
    def whole(self) -> bool:
        """Coupled: the adapted model writes the text, so it is regularised on all of it, also after the last group."""
        return self.settings.mode == "coupled" and self.settings.lm_kl_weight > 0

    def forward(
        self,
        prefix_ids: Tensor,
        prefix_places: Tensor,
        leaf_ids: Tensor,
        leaf_positions: Tensor,
        leaf_places: Tensor,
        group_rows: Tensor,
        group_positions: Tensor,
        slm_logprobs: Tensor,
        llm_logprobs: Tensor,
    ) -> dict[str, Tensor]:
        """Choice logits (G, K) and the summed losses of a batch of `groups.collate`."""
        leaves = Leaves(prefix_ids, leaf_ids, leaf_positions, leaf_places)
        hidden, prefix = self.read(leaves)
        expected = expected_bin(hidden, self.bin_rows).view(slm_logprobs.shape)  # (G, K)
        if self.reads_own:
            assert prefix is not None
            candidates = leaf_ids.flatten()[leaf_places].view(slm_logprobs.shape)
            before = prefix[group_rows, group_positions - 1]  # (G, H)
            slm_logprobs = in_rows(self.candidate_logprobs, self.vocabulary, before, candidates)
        logits = choice_logits(
            self.settings.score, expected, slm_logprobs, self.settings.score_temperature, self.anchor
        )
        losses = {"logits": logits, "choice": choice_loss(logits, llm_logprobs)}
        if self.settings.group_kl_weight > 0:
            losses["group_kl"] = group_kl(logits, llm_logprobs)
        if self.whole:
            assert prefix is not None
            base = self.base_states(prefix_ids)
            states = (each.flatten(0, 1)[prefix_places] for each in (prefix, base))  # (P, H)
            losses["lm_kl"] = by_rows(self.prefix_kl, self.vocabulary, *states)[0].sum()
        return losses

    def read(self, leaves: Leaves) -> tuple[Tensor, Tensor | None]:
        """Hidden states of the leaves (R, H) and, where they are needed, of the prefixes (B, L, H)."""
        if self.settings.mode == "activated":
            rows = leaves if self.settings.packed else one_row_per_leaf(leaves)
            return base_leaf_forward(self.slm, self.switch, rows), None
        if self.settings.packed:
            return packed_forward(self.slm, leaves)
        hidden = plain_forward(self.slm, one_row_per_leaf(leaves))
        if not (self.whole or self.reads_own):
            return hidden, None
        return hidden, self.slm.base_model(leaves.prefix_ids, use_cache=False).last_hidden_state

    @torch.no_grad()
    def base_states(self, prefix_ids: Tensor) -> Tensor:
        """(B, L, H) of the frozen SLM: the same weights with the adapter off."""
        self.switch.set_active(False)
        try:
            states: Tensor = self.slm.base_model(prefix_ids, use_cache=False).last_hidden_state
        finally:
            self.switch.set_active(True)
        return states

    def candidate_logprobs(self, states: Tensor, candidates: Tensor) -> Tensor:
        """Log-probabilities of the tokens (G, K) that may follow final states (G, H)."""
        return log_probabilities(logits_of(self.slm, states), self.forbidden).gather(-1, candidates)

    def prefix_kl(self, states: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        """KL to the frozen SLM after each of P tokens with the adapted and the frozen final states, (P, H) each."""
        with torch.no_grad():
            base_logits = logits_of(self.slm, base)
        losses = language_kl(logits_of(self.slm, states), base_logits, self.forbidden)
        return losses, losses


class DistillModule(AdapterModule):
    """The SLM with an adapter that learns at every token of the answers, and the LLM that it learns from."""

    def __init__(
        self,
        model: PreTrainedModel,
        config: DistillConfig,
        forbidden: Sequence[int],
        llm: PreTrainedModel | None = None,
    ) -> None:
        """See `AdapterModule`. The LLM, needed where whole distributions are learned, is no part of the module."""
        heads = [model] if llm is None else [model, llm]
        rows = min(int(each.config.get_text_config().vocab_size) for each in heads)
        super().__init__(model, config, [token for token in forbidden if token < rows])
        self.kind = config.kind
        self.common = rows  # of the two heads: one of them may be padded further, and no tokens are there
        self.taught_by = (llm,)

    def forward(
        self,
        ids: Tensor,
        rows: Tensor,
        places: Tensor,
        llm_ids: Tensor | None = None,
        llm_logprobs: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss in nats and agreement at each of the N tokens of the answers, and the row of each, (N,)."""
        states = self.slm.base_model(ids, use_cache=False).last_hidden_state.flatten(0, 1)[places]  # (N, H)
        if self.kind == "sft":
            losses, agree = by_rows(self.imitation, self.vocabulary, states, ids.flatten()[places + 1])
        elif llm_ids is not None and llm_logprobs is not None:
            losses, agree = by_rows(self.top_divergence, self.vocabulary, states, llm_ids, llm_logprobs)
        else:
            llm = self.taught_by[0]
            assert llm is not None, "whole distributions come from an LLM in process"
            with torch.no_grad():
                wanted = llm.base_model(ids.to(llm.device), use_cache=False).last_hidden_state
            wanted = wanted.flatten(0, 1)[places.to(llm.device)]  # (N, H of the LLM)
            losses, agree = by_rows(self.divergence, self.vocabulary, states, wanted)
        return {"losses": losses, "agree": agree, "rows": rows}

    def logprobs(self, states: Tensor) -> Tensor:
        """Of the tokens that both heads have, after final states, (N, H) -> (N, common)."""
        return log_probabilities(logits_of(self.slm, states)[:, : self.common], self.forbidden)

    def imitation(self, states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of (N,) tokens after (N, H) states, and whether they are the most probable ones."""
        logprobs = self.logprobs(states)
        return -logprobs.gather(-1, targets[:, None])[:, 0], logprobs.argmax(-1) == targets

    def top_divergence(self, states: Tensor, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """KL to the LLM over its top tokens (N, K) and one bucket for all else; whether the best one is the same."""
        logprobs = self.logprobs(states)
        losses = bucketed_kl_nats(wanted, logprobs.gather(-1, ids)).float()
        return losses, logprobs.argmax(-1) == ids[:, 0]

    def divergence(self, states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """KL to the LLM after (N, H) states of either, and whether their most probable tokens are the same."""
        llm = self.taught_by[0]
        assert llm is not None
        with torch.no_grad():
            llm_logits = logits_of(llm, wanted)[:, : self.common].to(states.device)
        logits = logits_of(self.slm, states)[:, : self.common]
        best, llm_best = (permitted(each.detach(), self.forbidden).argmax(-1) for each in (logits, llm_logits))
        return language_kl(logits, llm_logits, self.forbidden), best == llm_best
