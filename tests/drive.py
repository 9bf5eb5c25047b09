"""Policies on tiny models through the real runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from select_to_think.config import RuntimeConfig
from select_to_think.contexts.memory import Extents
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.models.adapter import Adapter, AdapterSwitch, inject_adapter, load_adapter
from select_to_think.models.loading import LoadedModel
from select_to_think.runs import Finished, Run
from select_to_think.runtime import Runtime
from select_to_think.streams import Streams
from select_to_think.structures import Role

SMALL = RuntimeConfig(kv_memory_gib=0.02)


def backends_of(models: Mapping[str, Any], **settings: Any) -> dict[str, TransformersBackend]:
    """A backend for each model; the LLM is the dearer one."""
    costs = {"slm": 1.0, "llm": 20.0}
    config = settings.pop("config", SMALL)
    return {
        name: TransformersBackend(model, config=config, cost=costs.get(name, 1.0), **settings)
        for name, model in models.items()
    }


def results_of(
    backends: Mapping[str, Any],
    policies: Iterable[Any],
    *,
    rows: int = 4,
    roles: Mapping[str, Role] | None = None,
    tokens: int = 128,
    copies: int = 0,
    config: RuntimeConfig = SMALL,
) -> list[Any]:
    """The results of running policies, in order; every context must be closed afterwards."""
    names = roles or {name: Role(name) for name in backends}
    runs = ((i, Run(policy, names, tokens, copies)) for i, policy in enumerate(policies))
    events = Streams(Runtime(backends, config)).events(runs, rows)
    results = {index: event.result for index, event in events if isinstance(event, Finished)}
    assert_closed(backends)
    return [results[i] for i in range(len(results))]


def free_slots(extents: Extents) -> int:
    """Slots that belong to nobody."""
    return sum(size * len(starts) for size, starts in extents.free.items())


def assert_closed(backends: Mapping[str, Any]) -> None:
    for backend in backends.values():
        if isinstance(backend, TransformersBackend) and "extents" in vars(backend):  # somebody asked it
            kept = sum(context.size for context in backend.prefixes.kept)
            extents = backend.extents
            unused = extents.slots % 64
            assert free_slots(extents) == extents.slots - unused - kept, "a context was not closed"
            assert not backend.live and kept <= backend.config.prefix_cache_tokens
            assert not backend.waiting


def adapter_of(switch: AdapterSwitch) -> Adapter:
    """A LoRA that peft runs, as the runtime takes it."""
    layers = {
        path: (layer.lora_A["default"].weight.detach().T, layer.lora_B["default"].weight.detach().T)
        for path, layer in switch.layers.items()
    }
    layer = next(iter(switch.layers.values()))
    return Adapter(layers, float(layer.scaling["default"]))


def attached(slm: LoadedModel, folder: Path) -> AdapterSwitch:
    """A folder's LoRA as peft runs it, inactive: the reference of what the runtime adds on gathered tokens."""
    adapter = load_adapter(folder, slm)
    rank = next(iter(adapter.layers.values()))[0].shape[1]
    switch = inject_adapter(slm.model, rank, adapter.scale * rank)
    with torch.no_grad():
        for path, layer in switch.layers.items():
            down, up = adapter.layers[path]
            layer.lora_A["default"].weight.copy_(down.T)
            layer.lora_B["default"].weight.copy_(up.T)
    return switch
