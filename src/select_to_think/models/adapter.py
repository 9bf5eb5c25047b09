"""A LoRA adapter on disk, read for decoding (`Adapter`), or inside a model that is trained (`AdapterSwitch`).

The files, `adapter_config.json` and `adapter_model.safetensors`, are readable by PEFT. Nothing is ever unpickled.

Non-goals: what the adapter is for (`models/scorer.py`, `models/distilled.py`), training (`training/`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from select_to_think.files import read_json
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from peft import LoraConfig

    from select_to_think.models.loading import LoadedModel

ADAPTER = "default"
PEFT_PREFIX = "base_model.model."  # what PEFT writes in front of a module's own path
UNSUPPORTED = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices")


class AdapterSwitch:
    """LoRA layers of one adapter, put into and taken out of the model's module tree.

    Inactive, the tree holds the original layers themselves: outputs and speed are those of a model that never met an
    adapter. Switching is one dictionary entry per adapted layer (microseconds). At most one switch of a model may be
    active at a time. Layers that are switched out do not follow `model.to(...)`.
    """

    def __init__(self, model: PreTrainedModel, layers: dict[str, nn.Module]) -> None:
        """Take over `layers` (path in the model -> LoRA layer), which are in the tree now; switch them off."""
        self.layers = layers
        self.active = True
        self._slots: list[tuple[dict[str, nn.Module | None], str, nn.Module, nn.Module]] = []
        for path, layer in layers.items():
            parent, _, name = path.rpartition(".")
            self._slots.append((model.get_submodule(parent)._modules, name, cast(nn.Module, layer.base_layer), layer))
        self.set_active(False)

    def set_active(self, active: bool) -> None:
        """Use the adapter in forwards from now on, or not."""
        if active == self.active:
            return
        for modules, name, base, adapted in self._slots:
            modules[name] = adapted if active else base
        self.active = active

    def weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapter's own parameters, under the names that PEFT gives them in a file."""
        for path, layer in self.layers.items():
            for part in ("lora_A", "lora_B"):
                yield f"{PEFT_PREFIX}{path}.{part}.weight", getattr(layer, part)[ADAPTER].weight


def adapted_paths(model: PreTrainedModel) -> list[str]:
    """The linear layers of attention and MLP: every linear layer of the model but the head.

    Raises:
        S2TError: there are none.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    paths = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    if not paths:
        raise S2TError(f"{type(model).__name__} has no linear layers that LoRA could adapt: choose another SLM")
    return paths


def inject_adapter(model: PreTrainedModel, rank: int, alpha: float) -> AdapterSwitch:
    """A fresh LoRA adapter (its delta is zero) on attention and MLP; returns its switch, inactive.

    Freezes the parameters of the model. The random half of the adapter comes from torch's global generator.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    inject_adapter_in_model(lora_config(adapted_paths(model), rank, alpha), model, ADAPTER)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    del model.peft_config  # the switch is the only owner; the next adapter starts from a clean model
    return AdapterSwitch(model, cast("dict[str, nn.Module]", layers))


def lora_config(paths: list[str], rank: int, alpha: float) -> LoraConfig:
    """LoRA as this library uses it: no dropout, no bias, the listed layers."""
    from peft import LoraConfig

    names = sorted({path.rpartition(".")[2] for path in paths})
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]


def save_adapter(folder: Path, switch: AdapterSwitch) -> None:
    """Write the adapter's two files into an existing folder, in fp32."""
    layer = next(iter(switch.layers.values()))
    config = lora_config(list(switch.layers), layer.r[ADAPTER], layer.lora_alpha[ADAPTER])  # type: ignore[index, arg-type]
    config.inference_mode = True
    config.save_pretrained(str(folder))
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in switch.weights()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Adapter:
    """A LoRA: layer path in the model -> its two factors, (in, rank) and (rank, out); the delta is scale * product."""

    layers: Mapping[str, tuple[Tensor, Tensor]]
    scale: float


NO_CHANGE = Adapter({}, 1.0)


def load_adapter(path: str | Path, slm: LoadedModel) -> Adapter:
    """Read a folder's LoRA for `slm`, on the CPU; the model is not touched.

    Raises:
        S2TError: files missing or damaged, options that this library does not run, or weights of other shapes.
    """
    folder = Path(path)
    config = read_json(folder / "adapter_config.json", remedy="train it again")
    extras = [key for key in UNSUPPORTED if config.get(key)]
    rank, alpha = config.get("r", 0), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or extras:
        what = ", ".join(extras) or f"peft_type {config.get('peft_type')}"
        raise S2TError(f"{folder / 'adapter_config.json'} uses {what}: only plain LoRA is supported")
    weights = read_tensors(folder / "adapter_model.safetensors")
    if not isinstance(alpha, int | float) or not all(rank in each.shape for each in weights.values()):
        raise S2TError(f"{folder / 'adapter_config.json'} does not fit its weights: train it again")
    layers = {}
    for layer in adapted_paths(slm.model):
        names = [f"{PEFT_PREFIX}{layer}.{part}.weight" for part in ("lora_A", "lora_B")]
        down, up = (weights.pop(name, torch.empty(0)) for name in names)
        module: Any = slm.model.get_submodule(layer)
        inputs, outputs = (
            (module.in_features, module.out_features) if isinstance(module, nn.Linear) else module.weight.shape
        )
        if down.shape != (rank, inputs) or up.shape != (outputs, rank):
            break
        layers[layer] = down.T, up.T
    else:
        if not weights:
            return Adapter(layers, alpha / rank)
    raise S2TError(f"the adapter in {folder} does not fit the layers of {slm.name}: train it again")


def check_fingerprint(folder: Path, fingerprint: str, slm: LoadedModel) -> None:
    """Refuse what was trained on another SLM.

    Raises:
        S2TError: the fingerprints differ.
    """
    if fingerprint != slm.fingerprint:
        raise S2TError(
            f"{folder} was trained for another SLM (fingerprint {fingerprint[:12]}, {slm.name} has "
            f"{slm.fingerprint[:12]}): give the SLM it was trained on, or train one for {slm.name}"
        )


def read_tensors(path: Path, *, without: str | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU; those whose names end on `without` are left out.

    Raises:
        S2TError: missing or damaged, or a value is not finite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise S2TError(f"{path} cannot be read ({error}): train or copy it again") from error
    if without is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(without)}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise S2TError(f"{path}: {name} holds values that are not finite numbers: train or copy it again")
    return tensors
