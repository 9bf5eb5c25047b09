"""Contexts in process: any `transformers` causal model with full or sliding-window attention, on CPU or CUDA.

Several backends may stand on one model: the base and the adapted contexts of S2T-Local share the weights and differ in
when the adapter is switched on (`adapted`) and in their own key-value buffers.

Non-goals: deciding anything; see `policies/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from select_to_think import probability
from select_to_think.contexts.kv import KVBuffer
from select_to_think.contexts.layout import Layout, RowPlan, lay_out
from select_to_think.contexts.masks import AttentionKinds
from select_to_think.contexts.observing import needs_logits, read_logits
from select_to_think.contexts.protocol import Context
from select_to_think.structures import Branch, Extend, Observation, Observe

Adapted = Literal["never", "always", "leaves"]
MOST_LOGITS = 1 << 27  # of one forward: 512 MiB in fp32


class Switch(Protocol):
    """Turns a LoRA adapter on and off."""

    def set_active(self, active: bool) -> None:
        """Make the model's forwards use the adapter, or not."""
        ...


class TransformersBackend:
    """One model (with one adapter state), many contexts, one key-value buffer."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        forbidden: Sequence[int] = (),
        switch: Switch | None = None,
        adapted: Adapted = "never",
        bin_rows: Tensor | None = None,
    ) -> None:
        """Serve `model`.

        Args:
            model: a causal language model in eval mode.
            forbidden: ids with probability zero (reserved and padded rows).
            switch: the adapter's switch, if the model carries one.
            adapted: when the adapter acts: never, always, or only on the leaf rows of branches that ask for bins.
            bin_rows: (bins, hidden_size) score rows, for `Observe.bins`.

        Raises:
            S2TError: the model has layers whose cache cannot be rolled back.
        """
        self.model = model
        self.device = model.device
        self.kinds = AttentionKinds.of(model)
        self.sdpa = model.config.get_text_config()._attn_implementation == "sdpa"
        self.switch, self.adapted = switch, adapted
        self.bin_rows = None if bin_rows is None else bin_rows.to(self.device)
        self.forbidden = torch.tensor(sorted(forbidden), dtype=torch.long, device=self.device)
        self.buffer = KVBuffer(model.config.get_text_config().num_hidden_layers, rows=1, slots=256)
        self.free = [0]

    @torch.inference_mode()
    def open(self, parent: Context | None = None) -> Context:
        """A new context: empty, or a copy of `parent`."""
        if not self.free:
            old = self.buffer.rows
            self.buffer.reserve(old + 1, self.buffer.slots)
            self.free.extend(range(old, self.buffer.rows))
        slot = min(self.free)
        self.free.remove(slot)
        if parent is None:
            return Context(slot)
        self.buffer.copy_row(parent.slot, slot, parent.stored)
        return Context(slot, parent.stored, list(parent.pending))

    def close(self, context: Context) -> None:
        """Give the row back; its content is overwritten by the next owner."""
        self.free.append(context.slot)

    @torch.inference_mode()
    def run(self, asks: Sequence[Ask]) -> list[Observation]:
        """Answer one request per context, in as few forwards as the requests' shapes allow."""
        if self.adapted == "leaves":
            self.flush([ask for ask in asks if self.uses_leaves(ask) and ask[0].pending])
        answers: dict[int, Observation] = {}
        for active, group in self.group(asks):
            answers.update(zip(group, self.forward([asks[i] for i in group], active), strict=True))
        return [answers[i] for i in range(len(asks))]

    def uses_leaves(self, ask: Ask) -> bool:
        """Whether the adapter acts on this request's leaf rows only."""
        return self.adapted == "leaves" and isinstance(ask[1], Branch) and ask[1].observe.bins

    def flush(self, asks: Sequence[Ask]) -> None:
        """Store pending tokens without observing anything."""
        if asks:
            self.run([(context, Extend(request.model, (), Observe())) for context, request in asks])

    def group(self, asks: Sequence[Ask]) -> list[tuple[bool, list[int]]]:
        """Indices of the requests that share a forward: one adapter state, widths within a factor of two."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, ask in enumerate(asks):
            active = self.adapted == "always" or self.uses_leaves(ask)
            groups.setdefault((active, plan(ask).width.bit_length()), []).append(i)
        parts = []
        for (active, _), group in groups.items():
            keep = max(tail(asks[i]) for i in group)
            size = max(1, MOST_LOGITS // (keep * self.model.config.get_text_config().vocab_size))
            parts += [(active, group[i : i + size]) for i in range(0, len(group), size)]
        return parts

    def forward(self, asks: Sequence[Ask], active: bool) -> list[Observation]:
        """One forward for `asks`, and what they asked to see."""
        plans = [plan(ask) for ask in asks]
        self.buffer.reserve(self.buffer.rows, max(p.end for p in plans) + 1)
        layout = lay_out(plans, self.buffer.slots - 1, self.device)
        keep = max(map(tail, asks))
        observes = [observed(ask) for ask in asks]
        if self.switch is not None:
            self.switch.set_active(active)
        hidden, logits = self.run_model(layout, keep, observes)
        for (context, _), row in zip(asks, plans, strict=True):
            context.stored = row.stored + len(row.tokens)
            context.pending.clear()
            context.tokens_processed += row.width
            context.forwards += 1
        seen = [line * keep + keep - np.array(offsets(ask)) for line, ask in zip(layout.lines, asks, strict=True)]
        select = torch.from_numpy(np.concatenate(seen)).to(self.device)  # (N,) in the flattened (B, keep)
        picked = (t if t is None else t.flatten(0, 1).index_select(0, select) for t in (hidden, logits))
        return self.read(observes, [len(lines) for lines in seen], *picked)

    def run_model(self, layout: Layout, keep: int, observes: Sequence[Observe]) -> tuple[Tensor | None, Tensor | None]:
        """Hidden states (B, keep, H) after the final norm and logits (B, keep, V), each only if somebody asked."""
        self.buffer.window = layout.window
        inputs = {
            "input_ids": layout.ids,
            "position_ids": layout.positions,
            "attention_mask": self.masks(layout),
            "past_key_values": self.buffer,
            "use_cache": True,
        }
        wants_hidden = any(observe.hidden or observe.bins for observe in observes)
        if not any(map(needs_logits, observes)):
            return self.model.base_model(**inputs).last_hidden_state[:, -keep:], None
        seen: list[Tensor] = []
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0])) if wants_hidden else None
        try:
            logits = self.model(**inputs, logits_to_keep=keep).logits
        finally:
            if hook is not None:
                hook.remove()
        return (seen[0] if seen else None), logits

    def masks(self, layout: Layout) -> Any:
        """The mask of each attention kind, in the form that the model's forward takes.

        None where attention needs none: a single query sees everything before it, and sdpa knows the beginning of a
        sequence without a mask. It is faster so. Models that make their own mask where they get none do not make one in
        these cases under sdpa.
        """
        implied = (layout.causal and self.sdpa) or (layout.maskless and (self.sdpa or self.kinds.by_kind))

        def build(window: int | None) -> Tensor | None:
            if implied and (window is None or layout.window.span < window):
                return None
            return layout.mask(self.model.dtype, self.device, window)

        return self.kinds.masks(build)

    def read(
        self, observes: Sequence[Observe], counts: Sequence[int], hidden: Tensor | None, logits: Tensor | None
    ) -> list[Observation]:
        """Observations from the observed lines: hidden (N, H), logits (N, V); row i owns `counts[i]` of the N lines."""
        observations = [Observation() for _ in observes]
        if logits is not None:
            observations = read_logits(logits, observes, counts, self.forbidden)
        if hidden is None or not any(observe.hidden or observe.bins for observe in observes):
            return observations
        scores = None if self.bin_rows is None else probability.expected_bin(hidden, self.bin_rows).cpu().numpy()
        states = hidden.float().cpu().numpy() if any(observe.hidden for observe in observes) else None
        for i, (observe, end) in enumerate(zip(observes, np.cumsum(counts), strict=True)):
            lines = slice(end - counts[i], end)
            observations[i] = replace(
                observations[i],
                bin_scores=scores[lines] if observe.bins and scores is not None else None,
                hidden=states[lines] if observe.hidden and states is not None else None,
            )
        return observations


Ask = tuple[Context, Extend | Branch]


def plan(ask: Ask) -> RowPlan:
    """The row of a forward that answers `ask`."""
    context, request = ask
    if isinstance(request, Branch):
        return RowPlan(context.slot, context.stored, tuple(context.pending), request.continuations)
    return RowPlan(context.slot, context.stored, [*context.pending, *request.tokens])


def observed(ask: Ask) -> Observe:
    """What the request wants to see."""
    assert ask[1].observe is not None
    return ask[1].observe


def offsets(ask: Ask) -> list[int]:
    """Observed columns, counted from the end (1 = last), in order."""
    request = ask[1]
    if isinstance(request, Branch):
        ends = np.cumsum([len(leaf) for leaf in request.continuations])
        return [int(ends[-1] - end) + 1 for end in ends]
    return list(range(len(request.tokens), 0, -1)) if observed(ask).every else [1]


def tail(ask: Ask) -> int:
    """Columns from the end that hold everything observed."""
    return offsets(ask)[0]
