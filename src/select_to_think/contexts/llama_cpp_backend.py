"""Contexts in llama.cpp, in process: a context is a sequence of one unified key-value memory.

Leaves are sequences that share the cells of what stands before them, so that branching, adopting and copying move no
keys or values; truncating forgets cells. An adapter acts on a whole call, so a step is one call for each adapter: the
sequences under their own, then leaves that another adapter reads on the cells that are there (`activated`).

A branch that may be left out is: it would be a call of its own, or tokens that a call takes longer for, to save the one
token of the next step.

Non-goals: deciding anything; see `policies/`.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from select_to_think.config import RuntimeConfig
from select_to_think.contexts.kv import LayerShape, slots_in
from select_to_think.contexts.local import LocalBackend, Part, Plan
from select_to_think.contexts.observing import read
from select_to_think.contexts.protocol import Ask, Context
from select_to_think.contexts.sequences import CONTEXTS, SEQUENCES, Call, Sequences
from select_to_think.models.adapter import Adapter
from select_to_think.models.gguf import LoadedGGUF, library, messages, write_adapter
from select_to_think.structures import Branch, Observation, S2TError

CALL_TOKENS = 512  # of a decode call
CELLS = 1 << 15  # by default, or the longest sequence: the memory is taken at once
BLOCK = 256  # cells; llama.cpp's memory is a multiple of it


class LlamaCppBackend(LocalBackend):
    """One GGUF model, many contexts."""

    memory: Sequences

    def __init__(
        self,
        loaded: LoadedGGUF,
        *,
        forbidden: Sequence[int] = (),
        config: RuntimeConfig = RuntimeConfig(),
        cost: float = 1.0,
    ) -> None:
        """Serve `loaded`; ids in `forbidden` have probability zero.

        Raises:
            S2TError: there is no memory for it.
        """
        self.loaded, self.functions = loaded, library()
        shape = loaded.model.config.get_text_config()
        cells = cells_in(config, shape, exact=loaded.exact)
        self.context = self.open_context(cells)
        self.vocabulary, self.width = int(shape.vocab_size), int(shape.hidden_size)
        self.loras: dict[str, Any] = {}
        self.taken: dict[Ask, list[int]] = {}  # sequences for the leaves of a branch in this step
        self.held: dict[Context, list[int]] = {}  # those of leaves that may be adopted
        sequences = Sequences(self.functions.llama_get_memory(self.context), cells - BLOCK)
        self.memory = self.extents = sequences
        super().__init__(torch.tensor(sorted(forbidden), dtype=torch.long), config, cost)
        weakref.finalize(self, self.functions.llama_free, self.context)

    def open_context(self, cells: int) -> Any:
        """llama.cpp's memory and buffers."""
        functions = self.functions
        settings = functions.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = cells, CALL_TOKENS, CALL_TOKENS
        settings.n_seq_max, settings.kv_unified, settings.swa_full = SEQUENCES, True, True
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.pooling_type, settings.no_perf = functions.LLAMA_POOLING_TYPE_NONE, True
        settings.type_k = settings.type_v = functions.GGML_TYPE_F16
        if self.loaded.exact:  # as the weights; flash attention computes in half precision on a CPU
            settings.type_k = settings.type_v = functions.GGML_TYPE_F32
            settings.flash_attn_type = functions.LLAMA_FLASH_ATTN_TYPE_DISABLED
        messages.clear()
        context = functions.llama_init_from_model(self.loaded.weights, settings)
        if not context:
            raise S2TError(f"llama.cpp has no memory for {cells} cells ({'; '.join(messages)}): lower kv_memory_gib")
        return context

    def load(self, name: str, adapter: Adapter) -> None:
        """Make a LoRA known to llama.cpp, which reads it from a file."""
        if not adapter.layers:
            return
        architecture = self.loaded.metadata("general.architecture")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "adapter.gguf"
            write_adapter(file, adapter, architecture, self.loaded.model.config.get_text_config())
            lora = self.functions.llama_adapter_lora_init(self.loaded.weights, str(file).encode())
        if not lora:
            raise S2TError(f"llama.cpp cannot load the adapter {name} ({'; '.join(messages)}): train it again")
        self.loras[name] = lora

    def adopt(self, context: Context, leaf: int) -> None:
        """Let the context go on with a leaf of its last branch: the leaf's sequence becomes the context's."""
        if context.pending or not context.leaves:
            raise RuntimeError("only a leaf of the branch just made can be adopted")
        tokens = context.leaves[leaf]
        numbers = self.held.pop(context)
        context.start, numbers[leaf] = numbers[leaf], context.start
        self.memory.release(numbers)
        context.append(tokens)
        context.stored = len(context)

    def step(self) -> list[Ask]:
        """The calls for what waits; the requests that are answered now."""
        for context in [context for context in self.held if not context.leaves or context not in self.live]:
            self.memory.release(self.held.pop(context))
        answered = super().step()
        for numbers in self.taken.values():  # of branches that did not come to be
            self.memory.release(numbers)
        self.taken.clear()
        return answered

    def shown(self, plan: Plan, ask: Ask, request: Branch) -> bool:
        """Whether a branch takes part: not one that may be left out, and others while there are sequences."""
        count = len(request.continuations)
        if request.optional:
            ask.answer = Observation()
        elif count > SEQUENCES - CONTEXTS:
            ask.answer = S2TError(f"llama.cpp compares at most {SEQUENCES - CONTEXTS} candidates: lower --candidates")
        elif count <= len(self.memory.free) - (CONTEXTS - self.memory.contexts):
            self.taken[ask] = [self.memory.free.pop() for _ in range(count)]
            return True
        return False

    def compute(self, plan: Plan) -> tuple[list[Observation | S2TError], list[Context]]:
        """A call for each adapter: what each part observed, and the contexts whose numbers are no numbers."""
        branches = {part.segment: part.ask for part in plan.parts if plan.segments[part.segment].leaves}
        calls: dict[tuple[bool, str], list[int]] = {}
        for number, (context, segment) in enumerate(zip(plan.contexts, plan.segments, strict=True)):
            self.memory.cut(context.start, context.stored)
            late = segment.adapter != context.adapter
            calls.setdefault((late, segment.adapter or ""), []).append(number)
        found: list[Observation | S2TError] = [Observation()] * len(plan.parts)
        wrong: dict[Context, None] = {}
        for (_, adapter), members in sorted(calls.items()):
            call, parts = self.prepare(plan, members, branches)
            self.use(adapter)
            hidden, logits = self.decode(call)
            if parts:
                seen, nan = read(
                    hidden, unchanged, list(parts.values()), self.forbidden, self.bin_rows, before_head=logits
                )
                for part, observation in zip(parts, seen, strict=True):
                    found[part] = observation
                owners = [owner for owner, wanted in zip(call.owners, call.looked_at, strict=True) if wanted]
                wrong |= {owner: None for owner, broken in zip(owners, nan, strict=True) if broken}
        for ask, numbers in ((ask, self.taken.pop(ask)) for ask in branches.values()):
            if ask.adapter is None and ask.context not in wrong:
                self.memory.release(self.held.pop(ask.context, []))
                self.held[ask.context] = numbers
            else:
                self.memory.release(numbers)
        return found, list(wrong)

    def prepare(self, plan: Plan, members: Sequence[int], branches: dict[int, Ask]) -> tuple[Call, dict[int, Part]]:
        """The call of some segments, and what is looked at in it: number of the part -> part.

        A token that stands before leaves of the same call belongs to their sequences as well.
        """
        call = Call()
        begins: dict[int, int] = {}
        leaves: dict[Context, list[int]] = {}
        for number in members:
            if number in branches:
                context = plan.contexts[number]
                leaves[context] = [*leaves.get(context, ()), *self.taken[branches[number]]]
        for context, numbers in leaves.items():
            for leaf in numbers:
                self.memory.copy(context.start, leaf, self.memory.filled[context.start])
        for number in members:
            context, segment = plan.contexts[number], plan.segments[number]
            begins[number] = len(call.tokens)
            call.tokens.extend(segment.tokens)
            lengths = segment.leaves or (segment.width,)
            call.positions.extend(segment.prefix + place for length in lengths for place in range(length))
            call.owners.extend([context] * segment.width)
            if number in branches:
                numbers = self.taken[branches[number]]
                call.sequences.extend(
                    (leaf,) for leaf, width in zip(numbers, segment.leaves, strict=True) for _ in range(width)
                )
                for leaf, width in zip(numbers, segment.leaves, strict=True):
                    self.memory.filled[leaf] = segment.prefix + width
            else:
                call.sequences.extend([(context.start, *leaves.get(context, ()))] * segment.width)
                self.memory.filled[context.start] = segment.first + segment.width
        parts = {i: part for i, part in enumerate(plan.parts) if part.segment in begins}
        call.hidden = any(part.observe.hidden or part.observe.bins for part in parts.values())
        call.looked_at = [call.hidden] * len(call.tokens)
        for part in parts.values():
            part.lines = [begins[part.segment] + line for line in part.lines]
            for line in part.lines:
                call.looked_at[line] = True
        rows = np.cumsum(call.looked_at) - 1
        for part in parts.values():
            part.lines = rows[part.lines].tolist()
        return call, parts

    def use(self, adapter: str) -> None:
        """Let an adapter act on the next call; none where the name is empty."""
        numbers = [self.loras[adapter]] if adapter in self.loras else []
        loras = (self.functions.llama_adapter_lora_p_ctypes * len(numbers))(*numbers)
        scales = (ctypes.c_float * len(numbers))(*[1.0] * len(numbers))
        self.functions.llama_set_adapters_lora(self.context, loras, len(numbers), scales)

    def decode(self, call: Call) -> tuple[Tensor, Tensor]:
        """Hidden states (N, H), or the logits in their place where nobody asks for them, and logits (N, V) of the N
        tokens that are looked at. Logits are llama.cpp's own memory, until the next call."""
        functions, pieces = self.functions, []
        functions.llama_set_embeddings(self.context, call.hidden)
        for start in range(0, len(call.tokens), CALL_TOKENS):
            end = min(start + CALL_TOKENS, len(call.tokens))
            batch, arrays = call.piece(start, end)
            messages.clear()
            if status := functions.llama_decode(self.context, batch):
                self.memory.filled = [1 << 30 if filled else 0 for filled in self.memory.filled]  # or nobody knows
                full = "the key-value memory is full: raise kv_memory_gib or lower max_batch"
                raise S2TError(full if status == 1 else f"llama.cpp failed ({status}; {'; '.join(messages)})")
            count = int(arrays[-1].sum())
            logits = rows(functions.llama_get_logits(self.context), count, self.vocabulary)
            hidden = logits
            if call.hidden:  # of which an observation may keep a part
                hidden = rows(functions.llama_get_embeddings(self.context), count, self.width).clone()
            pieces.append((hidden, logits))
            if end < len(call.tokens):
                pieces[-1] = hidden.clone(), logits.clone()
        return pieces[0] if len(pieces) == 1 else tuple(map(torch.cat, zip(*pieces, strict=True)))  # type: ignore[return-value]


def cells_in(config: RuntimeConfig, shape: Any, *, exact: bool) -> int:
    """Cells of a memory of the configured size, in whole blocks."""
    heads = int(shape.num_attention_heads)
    size = int(getattr(shape, "head_dim", None) or shape.hidden_size // heads)
    layer = LayerShape(int(getattr(shape, "num_key_value_heads", None) or heads), size, size)
    longest = int(shape.max_position_embeddings)
    kind = torch.float32 if exact else torch.float16
    cells = slots_in(config.kv_memory_gib, [layer] * shape.num_hidden_layers, kind, torch.device("cpu"), longest)
    if config.kv_memory_gib is None:
        cells = min(cells, max(CELLS, longest))
    return max(cells // BLOCK, 2) * BLOCK


def rows(pointer: Any, count: int, width: int) -> Tensor:
    """(count, width) numbers of llama.cpp's memory."""
    if not count:
        return torch.empty(0, width)
    return torch.from_numpy(np.ctypeslib.as_array(pointer, (count, width)))


def unchanged(logits: Tensor) -> Tensor:
    """The head, where llama.cpp has applied it."""
    return logits
