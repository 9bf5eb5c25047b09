"""Contexts in process: any `transformers` causal model with full or sliding-window attention, on CPU or CUDA.

One backend serves one set of weights, whatever adapters its contexts have. A step is one flat forward over what all
waiting requests need (`local.py`).

Non-goals: deciding anything; see `policies/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import PreTrainedModel

from select_to_think.config import RuntimeConfig
from select_to_think.contexts.flat_model import FlatModel
from select_to_think.contexts.kv import KVMemory, slots_in
from select_to_think.contexts.local import LocalBackend, Plan
from select_to_think.contexts.memory import Extents
from select_to_think.contexts.observing import read
from select_to_think.contexts.protocol import Ask, Context
from select_to_think.contexts.self_check import disagreement
from select_to_think.models.adapter import Adapter
from select_to_think.structures import Branch, Observation, S2TError


class TransformersBackend(LocalBackend):
    """One model, many contexts, one key-value memory."""

    keeps_leaves = True

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        forbidden: Sequence[int] = (),
        config: RuntimeConfig = RuntimeConfig(),
        cost: float = 1.0,
    ) -> None:
        """Serve `model`, a causal language model in eval mode; ids in `forbidden` have probability zero.

        Raises:
            S2TError: a model that cannot be driven by flat forwards.
        """
        self.flat = FlatModel(model)
        never = torch.tensor(sorted(forbidden), dtype=torch.long, device=model.device)
        super().__init__(never, config, cost)
        if found := disagreement(self.flat):
            raise self.flat.refusal(found)

    @cached_property
    def memory(self) -> KVMemory:  # type: ignore[override]
        """A share of what is free when the first context needs it."""
        flat, config = self.flat, self.config
        longest = flat.config.max_position_embeddings + config.leaf_tokens
        slots = slots_in(config.kv_memory_gib, flat.shapes, flat.dtype, flat.device, longest)
        memory = KVMemory(flat.shapes, slots, flat.dtype, flat.device)
        if config.compile and flat.device.type == "cuda":
            flat.record(memory)
        return memory

    @cached_property
    def extents(self) -> Extents:  # type: ignore[override]
        """Who has which slots of the memory."""
        return Extents(self.memory.slots)

    def give_back(self) -> None:
        """Give the memory back while no context is open; the next one takes it anew, of what is free then."""
        self.flat.graphs = None
        for name in ("memory", "extents", "prefixes"):
            vars(self).pop(name, None)
        if self.flat.device.type == "cuda":
            torch.cuda.empty_cache()

    def load(self, name: str, adapter: Adapter) -> None:
        """Make a LoRA known to the model under a name."""
        self.flat.add_adapter(name, adapter)

    @torch.inference_mode()
    def adopt(self, context: Context, leaf: int) -> None:
        """Let the context go on with a leaf of its last branch: the leaf's keys and values move behind the sequence."""
        if context.pending or not context.leaves:
            raise RuntimeError("only a leaf of the branch just made can be adopted")
        tokens = context.leaves[leaf]
        slots = context.grown[tuple(tokens)]
        if slots[0] != context.stored or slots[-1] != context.stored + len(tokens) - 1:
            self.memory.move([context.start + slot for slot in slots], context.start + context.stored)
        context.append(tokens)
        context.stored = len(context)

    def shown(self, plan: Plan, ask: Ask, request: Branch) -> bool:
        """Whether a branch takes part; one that may be left out is, where many tokens stand in the step already."""
        plan.short += request.width
        if not request.optional or plan.short <= self.config.leaf_tokens:
            return True
        plan.short -= request.width
        ask.answer = Observation()
        return False

    def compute(self, plan: Plan) -> tuple[list[Observation | S2TError], list[Context]]:
        """One flat forward: what each part observed, and the contexts whose numbers are no numbers."""
        step = self.flat.lay_out(plan.segments)
        hidden = self.flat.run(step, self.memory)
        for part in plan.parts:
            begin = step.offsets[part.segment]
            part.lines = [begin + line for line in part.lines]
        plan.parts.sort(key=lambda part: part.lines[0])  # as the tokens stand, so that none need be gathered
        found, nan = read(hidden, self.flat.head, plan.parts, self.forbidden, self.bin_rows)
        if not nan.any():
            return found, []
        segments = zip(plan.contexts, plan.segments, step.offsets, strict=True)
        return found, [c for c, segment, first in segments if nan[first : first + segment.width].any()]
