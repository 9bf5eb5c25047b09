"""A `transformers` model that takes flat forwards: tokens of many contexts in one sequence, each with its own adapter.

Weights and module tree stay as they were loaded. Attention is ours for the time of a forward (`attention.py`), and the
linear layers that an adapter changes add its product on the tokens of that adapter only.

Non-goals: contexts and requests (`transformers_backend.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from select_to_think.contexts import attention
from select_to_think.contexts.attention import Flat
from select_to_think.contexts.graphs import Graphs
from select_to_think.contexts.kv import KVMemory, LayerShape
from select_to_think.contexts.layout import Segment, Step, lay_out
from select_to_think.contexts.masks import AttentionKinds
from select_to_think.models.adapter import Adapter
from select_to_think.structures import S2TError

GROUP_BYTES = 3 << 19  # bytes of a layer's keys and values that a group reads on a CPU: about a core's second cache


class FlatModel:
    """Runs `Step`s of one model."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Take `model`, in eval mode.

        Raises:
            S2TError: the model computes attention in a way of its own, or has layers that cannot be rolled back.
        """
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.config = model.config.get_text_config()
        self.windows = AttentionKinds.of(model).by_layer(self.config)
        self.spans: list[tuple[str, int, int]] = []  # of the forward that runs now: (adapter, first token, behind it)
        self.adapted: dict[str, AdaptedLinear] = {}
        self.shapes = self.probe()
        slot_bytes = max(shape.numbers for shape in self.shapes) * self.dtype.itemsize
        self.most_slots = None if self.device.type == "cuda" else GROUP_BYTES // slot_bytes
        self.graphs: Graphs | None = None

    @torch.inference_mode()
    def probe(self) -> list[LayerShape]:
        """What each layer stores of a token, seen in a forward of two tokens."""
        flat = Flat(lay_out([Segment(0, 64, 0, 0, (0, 0))], self.device), None, self.windows, {})
        try:
            self.forward(flat)
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self.refusal(str(error).strip().splitlines()[0]) from error
        if sorted(flat.shapes) != sorted(self.windows):
            raise self.refusal(f"{len(flat.shapes)} of {len(self.windows)} layers called the attention function")
        return [flat.shapes[layer] for layer in sorted(flat.shapes)]

    def refusal(self, reason: str) -> S2TError:
        """The error for a model that cannot be driven this way."""
        kind = self.config.model_type
        return S2TError(f"{kind} cannot be decoded in batches by this library ({reason}): choose another model")

    def lay_out(self, segments: Sequence[Segment]) -> Step:
        """Arrange segments (each at least one token) as one forward of this model."""
        return lay_out(segments, self.device, self.most_slots)

    def run(self, step: Step, memory: KVMemory) -> Tensor:
        """Hidden states (T, H) after the final norm; keys and values go into `memory`."""
        if self.graphs is not None and self.graphs.serves(step):
            return self.graphs.run(step)
        return self.forward(Flat(step, memory, self.windows, {}))

    def record(self, memory: KVMemory) -> None:
        """From now on, replay what can be replayed over `memory`, the only one that is used."""
        self.graphs = Graphs(lambda step: self.forward(Flat(step, memory, self.windows, {})))

    def forward(self, flat: Flat) -> Tensor:
        """The model's own forward, with our attention and the adapters of the step."""
        own = self.config._attn_implementation
        self.config._attn_implementation = attention.NAME
        self.spans = flat.step.adapters
        try:
            out = self.model.base_model(
                input_ids=flat.step.ids, position_ids=flat.step.positions, use_cache=False, flat=flat
            )
        finally:
            self.config._attn_implementation = own
            self.spans = []
        return cast(Tensor, out.last_hidden_state[0])

    def head(self, states: Tensor) -> Tensor:
        """Logits of final hidden states, (..., H) -> (..., V)."""
        return logits_of(self.model, states)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Let contexts with the adapter `name` use it; the others are not affected."""
        for path, (down, up) in adapter.layers.items():
            if path not in self.adapted:
                self.adapted[path] = AdaptedLinear(self, self.model.get_submodule(path))
            self.adapted[path].parts[name] = (
                down.to(self.device, self.dtype),
                (up * adapter.scale).to(self.device, self.dtype),
            )


def logits_of(model: PreTrainedModel, states: Tensor) -> Tensor:
    """The vocabulary head of a model on its final hidden states, (..., H) -> (..., V)."""
    config = model.config.get_text_config()
    logits: Tensor = model.get_output_embeddings()(states)
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / cap) * cap
    if factor := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * factor
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    return logits


class AdaptedLinear:
    """Stands in for a linear layer's `forward`: the layer's own product, and each adapter's on its tokens."""

    def __init__(self, owner: FlatModel, layer: nn.Module) -> None:
        self.owner, self.plain = owner, cast("Callable[[Tensor], Tensor]", layer.forward)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}  # adapter -> (in, rank), (rank, out)
        layer.forward = self

    def __call__(self, inputs: Tensor) -> Tensor:
        """(..., T, in) -> (..., T, out); T are all tokens of the step."""
        out = self.plain(inputs)
        for name, first, end in self.owner.spans:
            if name in self.parts:
                down, up = self.parts[name]
                rows, sums = (t.view(-1, t.shape[-1])[first:end] for t in (inputs, out))
                sums.addmm_(rows @ down, up)
        return out
