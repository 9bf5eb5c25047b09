"""A small network in numpy: linear layers with ReLU between them, on hidden states that are on the host already.

Non-goals: training, and what the output means (`trigger_head.py`, `verifier.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from select_to_think.models.adapter import read_tensors
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import Floats, S2TError

Layers = tuple[tuple[Floats, Floats], ...]  # (out, in) weights and (out,) biases, fp32


def apply_layers(layers: Layers, inputs: Floats) -> Floats:
    """The last layer's single output for each of the inputs, (P, H) -> (P,)."""
    for i, (weight, bias) in enumerate(layers):
        inputs = (np.maximum(inputs, 0) if i else inputs) @ weight.T + bias
    return inputs[:, 0]


@dataclass(frozen=True)
class Norm:
    """A batch norm at inference, (out,) each."""

    scale: Floats
    shift: Floats
    mean: Floats
    variance: Floats
    eps: float = 1e-5


def fold(linears: Iterable[tuple[Floats, Floats, Norm | None]]) -> Layers:
    """The layers of a network of (weight, bias, norm): behind a norm there is a ReLU, without one there is nothing.

    norm(W x + b) = (s W) x + s (b - mean) + shift with s = scale / spread; linear layers in a row become one.
    """
    layers: list[tuple[Any, Any]] = []
    before: tuple[Any, Any] | None = None  # a linear layer with nothing behind it
    for pair in linears:
        weight, bias, norm = pair[0].astype(np.float64), pair[1].astype(np.float64), pair[2]
        if before is not None:
            weight, bias = weight @ before[0], weight @ before[1] + bias
        before = weight, bias
        if norm is not None:
            factor = norm.scale / np.sqrt(norm.variance.astype(np.float64) + norm.eps)
            layers.append((factor[:, None] * weight, factor * (bias - norm.mean) + norm.shift))
            before = None
    layers += [] if before is None else [before]
    return tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in layers)


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
