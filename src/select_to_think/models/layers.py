"""A small network in numpy: linear layers with ReLU between them, on hidden states that are on the host already.

Non-goals: training, and what the output means (`trigger_head.py`, `verifier.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_weights

from select_to_think.models.adapter import read_tensors
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, S2TError

Layers = tuple[tuple[Floats, Floats], ...]  # (out, in) weights and (out,) biases, fp32


def apply_layers(layers: Layers, inputs: Floats) -> Floats:
    """The last layer's single output for each of the inputs, (P, H) -> (P,)."""
    for i, (weight, bias) in enumerate(layers):
        inputs = (np.maximum(inputs, 0) if i else inputs) @ weight.T + bias
    return inputs[:, 0]


@torch.no_grad()
def fold(network: Iterable[nn.Module]) -> Layers:
    """The layers at inference of linear layers, batch norms, ReLU and dropout, in their order.

    A norm becomes a part of the linear layer before it, and linear layers without a ReLU between them become one.
    """
    layers: list[Any] = []
    last: Any = None  # (weight, bias) behind which there is nothing as yet
    for module in deepcopy(nn.ModuleList(network)).double():
        if isinstance(module, nn.Linear):
            weight, bias = module.weight, module.bias
            last = (weight, bias) if last is None else (weight @ last[0], weight @ last[1] + bias)
        elif isinstance(module, nn.BatchNorm1d):
            norm: Any = module
            mean, variance = norm.running_mean, norm.running_var
            last = fuse_linear_bn_weights(last[0], last[1], mean, variance, norm.eps, norm.weight, norm.bias)
        elif isinstance(module, nn.ReLU):
            layers.append(last)
            last = None
    return tuple((weight.float().numpy(), bias.float().numpy()) for weight, bias in (*layers, last))


def save_layers(file: Path, layers: Layers) -> None:
    """Write a safetensors file."""
    tensors: dict[str, Floats] = {}
    for i, (weight, bias) in enumerate(layers):
        tensors |= {f"weight.{i}": np.ascontiguousarray(weight), f"bias.{i}": np.ascontiguousarray(bias)}
    save_file(tensors, file)


def load_layers(file: Path, slm: LoadedModel, *, remedy: str) -> Layers:
    """Read a safetensors file of layers on hidden states of `slm`.

    Raises:
        S2TError: missing, damaged, or no layers from the SLM's hidden states to one output.
    """
    tensors = {name: tensor.numpy() for name, tensor in read_tensors(file).items()}
    numbers = range(len(tensors) // 2)
    if tensors.keys() != {f"{part}.{i}" for part in ("weight", "bias") for i in numbers}:
        raise S2TError(f"{file} does not hold layers; {remedy}")
    return fitting(tuple((tensors[f"weight.{i}"], tensors[f"bias.{i}"]) for i in numbers), file, slm, remedy)


def fitting(layers: Layers, file: Path, slm: LoadedModel, remedy: str) -> Layers:
    """The layers of `file`. Raises S2TError unless they lead from the SLM's hidden states to one output."""
    sizes = [slm.model.config.get_text_config().hidden_size, *(bias.size for _, bias in layers)]
    if sizes[-1] != 1 or [weight.shape for weight, _ in layers] != [(b, a) for a, b in pairwise(sizes)]:
        raise S2TError(f"{file} does not fit {slm.name}; {remedy}")
    return layers
