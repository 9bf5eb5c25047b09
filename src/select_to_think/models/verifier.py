"""The trained verifier's network on disk and in memory: hidden state of the SLM in, logit of "option B is better" out.

A folder holds `verifier.safetensors` (the layers, batch norm folded in) and `verifier.json` (fingerprint of the SLM,
the prompt that it was trained behind, what the training reported).

Non-goals: training (`training/verifier.py`), judging (`verifiers/mlp.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from select_to_think.config import VerifierPlace
from select_to_think.files import finite, read_record, write_json_atomic
from select_to_think.models.adapter import check_fingerprint, read_tensors
from select_to_think.models.layers import Layers, fitting, fold, load_layers, save_layers
from select_to_think.models.loading import LoadedModel
from select_to_think.structures import S2TError

NAME = "verifier"
Wording = tuple[str, str | None, VerifierPlace]  # template, opening and place of a prompt
REMEDY = "train one with: s2t train verifier"


@dataclass(frozen=True)
class About:
    """What `verifier.json` holds."""

    slm_fingerprint: str
    template: str
    opening: str | None  # None: the state before it is read
    training: Mapping[str, Any]
    place: VerifierPlace = "turn"
    schema: Literal[1] = 1


def save_verifier(folder: Path, layers: Layers, about: About) -> None:
    """Write the two files into an existing folder."""
    save_layers(folder / f"{NAME}.safetensors", layers)
    write_json_atomic(folder / f"{NAME}.json", finite(asdict(about)))


def load_verifier(path: str | Path, slm: LoadedModel, prompt: Wording) -> Layers:
    """Read a network that was trained for `slm` behind `prompt`, such as h -> 2h -> h -> h/2 -> 1; its sigmoid is the
    probability that option B is the better one.

    Raises:
        S2TError: none there, a damaged file, or one that was trained for another SLM or prompt.
    """
    folder = Path(path)
    about = read_record(About, folder / f"{NAME}.json", remedy=REMEDY)
    check_fingerprint(folder, about.slm_fingerprint, slm)
    if (about.template, about.opening, about.place) != prompt:
        raise S2TError(
            f"{folder} was trained behind another prompt: leave --verifier-template alone, or {REMEDY} (with the same "
            "--preset)"
        )
    return load_layers(folder / f"{NAME}.safetensors", slm, remedy=REMEDY)


def read_published(file: Path, slm: LoadedModel) -> Layers:
    """The network of a state dict of MentorCollab's code, which says A above 0: here B is above 0.

    The names tell its form: `mlp.N` holds linear layers and batch norms in their order, `linear` is the last one. As in
    `torchvision.ops.MLP` a ReLU stands behind each norm, and nothing behind a linear layer without one.

    Raises:
        S2TError: missing, damaged, or no such network on hidden states of `slm`.
    """
    tensors = read_tensors(file, without="num_batches_tracked")
    remedy = "give the state dict of a published verifier as safetensors"
    network: list[nn.Module] = []
    try:
        numbers = {int(name.split(".")[1]) for name in tensors if not name.startswith("linear.")}
        for place in (*(f"mlp.{number}" for number in sorted(numbers)), "linear"):
            own = {name.rpartition(".")[2]: each for name, each in tensors.items() if name.startswith(f"{place}.")}
            if "running_mean" in own:
                own["num_batches_tracked"] = torch.tensor(0)
                network += [nn.BatchNorm1d(len(own["weight"])), nn.ReLU()]
                network[-2].load_state_dict(own)
            else:
                network.append(nn.Linear(*own["weight"].shape[::-1]))
                network[-1].load_state_dict(own)
        *layers, (weight, bias) = fold(network)
    except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
        raise S2TError(f"{file} does not hold such a network; {remedy}") from error
    return fitting((*layers, (-weight, -bias)), file, slm, remedy)
