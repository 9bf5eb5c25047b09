"""Training the verifier of mentor-mlp: a network on the SLM's last hidden state behind the verifier's question.

At disputes of training problems the answer is finished from both segments (`training/disputes.py`). A dispute counts if
exactly one of them leads to the right answer; it is shown in both orders, so as many prompts have "option B" for an
answer as "option A". The problems are split by a hash of the question: a tenth of them trains nothing and measures.

The network has the sizes of MentorCollab's (arXiv 2602.05307): h -> 2h -> h -> h/2 -> 1, with batch norm, ReLU and
dropout behind each layer but the last; in the published form the third has neither norm nor ReLU. At inference the
norms are folded into the layers. The SLM is only read.

Non-goals: judging (`verifiers/mlp.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import set_seed

from select_to_think.config import DecodeConfig, Definition, MentorConfig
from select_to_think.evaluation.items import Item, assert_unique, items_note, question_key
from select_to_think.evaluation.settings import decode_settings, fingerprints
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.files import Journal
from select_to_think.methods import prompt_of
from select_to_think.models.layers import Layers, apply_layers, fold
from select_to_think.models.loading import LoadedModel
from select_to_think.models.verifier import About, read_published, save_verifier
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.structures import Floats, Progress, S2TError
from select_to_think.training.card import write_card
from select_to_think.training.disputes import JudgedDispute, JudgedItem, judge_disputes
from select_to_think.training.folders import ANSWERS, begin, disk_errors, publish, working_folder
from select_to_think.training.groups import is_held_out
from select_to_think.training.head import fit_head, last_states, roc_auc
from select_to_think.training.settings import VerifierTrainConfig

if TYPE_CHECKING:
    from select_to_think.session import Session

DROPOUT = 0.1
CURVE_BINS = 10


@dataclass(frozen=True)
class Prompts:
    """N disputes, each as two prompts: the SLM's segment first, then the mentor's first."""

    hidden: Tensor  # (N, 2, H) fp32, on the host
    right: Tensor  # (N, 2) bool: option B leads to the right answer
    free: Floats  # (N, 2) log-odds of the letter B under the SLM itself


def train_verifier(
    session: Session,
    items: Sequence[Item],
    config: VerifierTrainConfig,
    mentor: MentorConfig,
    decode: DecodeConfig,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge the disputes of `items`, train the network and write its folder to `out`.

    Args:
        session: the pair.
        items: training problems.
        config: size of the training, optimiser.
        mentor: how often the mentor is asked, the length of the segments, and the prompt.
        decode: how the problems are answered; its seed is that of the network's start too.
        out: the new folder (must not exist).
        resume: go on with the disputes that a stopped run has judged.
        progress: called with (items judged, all).

    Returns:
        Counts and, on disputes of problems that trained nothing, `roc_auc`, `right_choices` (share of disputes decided
        rightly, both orders averaged) beside `free_right_choices` of the SLM's own letters, and the `calibration`
        curve.

    Raises:
        S2TError: no items, an id that stands twice, too few disputes, an existing `out`, an unwritable path.
    """
    assert_unique(items)
    settings = {"mentor": asdict(mentor), "decode": decode_settings(decode), "items": items_note(items)}
    _ = session.slm.trainable  # or refuse before the work
    with working_folder(out, resume=resume) as work, disk_errors(work):
        begin(work, {**settings, "models": fingerprints(session)})
        prompt = prompt_of(session, mentor)
        with Journal(work / ANSWERS, JudgedItem) as journal:
            found = judge_disputes(session, items, decode, mentor, journal, progress)
        session.give_back()
        telling = [(item, dispute) for item, dispute in found if dispute.right[0] != dispute.right[1]]
        sides = [[each for each in telling if is_held_out(question_key(each[0])) == side] for side in (False, True)]
        if not all(sides):
            (work / ANSWERS).unlink()  # the remedy is other settings, and those cannot go on from here
            raise S2TError("too few disputes have one right side: take more --items, or a higher --consult-rate")
        fit, measured = (read_prompts(session.slm, prompt, side, mentor.verifier_state) for side in sides)
        layers, seconds = fit_layers(fit, config, decode.seed, work)
        summary = {
            "disputes": len(found),
            "ties": len(found) - len(telling),
            "mentor_right": sum(dispute.right[1] for _, dispute in telling) / len(telling),
            "trained": len(fit.right),
            "measured": len(measured.right),
            "seconds": seconds,
            **quality(layers, measured),
            "config": asdict(config),
            **settings,
        }
        publish(out, partial(write, session, layers, mentor, summary, items), write_card)
    return summary


def take_published(session: Session, file: Path, mentor: MentorConfig, out: Path) -> dict[str, Any]:
    """Write the folder of a network that was trained by the published code: `file` is its state dict as safetensors.

    Raises:
        S2TError: no such network for this SLM, an existing `out`, an unwritable path.
    """
    if out.exists():
        raise S2TError(f"{out} already exists: remove it or name another --out")
    summary = {"published": file.name}
    publish(out, partial(write, session, read_published(file, session.slm), mentor, summary, ()), write_card)
    return summary


def write(
    session: Session,
    layers: Layers,
    mentor: MentorConfig,
    summary: dict[str, Any],
    items: Sequence[Item],
    folder: Path,
) -> None:
    """Fill the folder of a verifier."""
    template, opening, place = prompt_of(session, mentor).read_at(mentor.verifier_state).wording
    save_verifier(folder, layers, About(session.slm.fingerprint, template, opening, summary, place))
    write_trained_on(folder, map(question_key, items))


def fit_layers(prompts: Prompts, config: VerifierTrainConfig, seed: int, work: Path) -> tuple[Layers, float]:
    """Train a network; its layers, and the seconds it took."""
    set_seed(seed)
    network = new_network(prompts.hidden.shape[-1], config.network)
    seconds = fit_head(
        network,
        prompts.hidden.flatten(0, 1),
        prompts.right.flatten(),
        work,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_prompts,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=seed,
    )
    return fold(network), seconds


def read_prompts(
    slm: LoadedModel,
    prompt: VerifierPrompt,
    disputes: Sequence[tuple[Item, JudgedDispute]],
    state: str = "behind",
) -> Prompts:
    """Ask the SLM about every dispute, in both orders; there is at least one."""
    asked = both_orders(prompt, disputes)
    hidden = free = last_states(slm, asked, [1] * len(asked))
    if (read := both_orders(prompt.read_at(state), disputes)) != asked:
        hidden = last_states(slm, read, [1] * len(read))
    rows = slm.trainable.get_output_embeddings().weight.detach()[list(prompt.letters)].float().cpu()  # (2, H)
    odds = free @ (rows[1] - rows[0])
    right = torch.tensor([dispute.right[::-1] for _, dispute in disputes])
    return Prompts(hidden.view(len(disputes), 2, -1), right, odds.view(-1, 2).numpy())


def both_orders(prompt: VerifierPrompt, disputes: Sequence[tuple[Item, JudgedDispute]]) -> list[list[int]]:
    """Two prompts for each dispute: the SLM's segment first, then the mentor's."""
    ids: list[list[int]] = []
    for item, dispute in disputes:
        asked = prompt.about(item.asked)
        ids.append(asked.ids(dispute.before, dispute.slm, dispute.mentor))
        ids.append(asked.ids(dispute.before, dispute.mentor, dispute.slm))
    return ids


def new_network(hidden_size: int, form: Definition = "ours") -> nn.Sequential:
    """Layers of 2h, h, h/2 and 1 outputs; in the published form the third is linear."""
    sizes = hidden_size, 2 * hidden_size, hidden_size, max(1, hidden_size // 2)
    modules: list[nn.Module] = []
    for place, (before, size) in enumerate(pairwise(sizes)):
        plain = form == "paper" and place == 2
        modules += [nn.Linear(before, size), *([] if plain else [nn.BatchNorm1d(size), nn.ReLU()]), nn.Dropout(DROPOUT)]
    return nn.Sequential(*modules, nn.Linear(sizes[-1], 1))


def quality(layers: Layers, prompts: Prompts) -> dict[str, Any]:
    """How well the network tells right from wrong on prompts that trained nothing."""
    logits = apply_layers(layers, prompts.hidden.flatten(0, 1).numpy())
    marks = prompts.right.flatten().numpy()
    return {
        "roc_auc": roc_auc(logits, marks),
        "right_choices": right_choices(logits.reshape(-1, 2), prompts.right.numpy()),
        "free_right_choices": right_choices(prompts.free, prompts.right.numpy()),
        "calibration": calibration_curve(1 / (1 + np.exp(-logits.astype(np.float64))), marks),
    }


def right_choices(odds: Floats, right: np.ndarray[Any, Any]) -> float:
    """Share of N disputes that the log-odds of option B, (N, 2), decide rightly if both orders are averaged."""
    return float(((odds[:, 0] > odds[:, 1]) == right[:, 0]).mean())


def calibration_curve(probabilities: np.ndarray[Any, Any], marks: np.ndarray[Any, Any]) -> list[dict[str, float]]:
    """In ten equal bins: the mean predicted probability and the share that was right. Empty bins are left out."""
    bins = np.minimum((probabilities * CURVE_BINS).astype(int), CURVE_BINS - 1)
    return [
        {
            "predicted": float(probabilities[bins == b].mean()),
            "right": float(marks[bins == b].mean()),
            "prompts": int((bins == b).sum()),
        }
        for b in range(CURVE_BINS)
        if (bins == b).any()
    ]
