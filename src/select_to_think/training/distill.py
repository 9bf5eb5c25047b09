"""The distillation baseline of arXiv 2604.26940: the SLM itself learns to write as the LLM does, instead of to select.

`kd`: the SLM answers the training problems by sampling; at every token of its answers it is trained towards the LLM's
next-token distribution over the whole vocabulary, D_KL(p_LLM || p_SLM), or over the LLM's top K tokens and the rest as
one (`labels.py`; the LLM may be a server). `sft`: it is trained on the LLM's own greedy answers by cross-entropy.
Problems, held-out items, adapter, schedule and number of optimiser steps are those of the scorer on the collection.

The answers are written once, before training (the SLM's are those of the SLM as it is given), and kept beside the
checkpoints, so that a killed run goes on.

Non-goals: inference (the method `distill`: greedy decoding with the adapter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor
from transformers.trainer_utils import set_seed

from select_to_think.collect.records import Trajectory
from select_to_think.config import DecodeConfig
from select_to_think.evaluation.settings import decode_settings, fingerprints
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.files import Journal, write_jsonl_atomic
from select_to_think.models.distilled import About, save_distilled
from select_to_think.models.vocabulary import check_shared_vocabulary, reserved_ids
from select_to_think.structures import Floats, Ids, Progress, S2TError, Stage, silent
from select_to_think.training.card import public_name
from select_to_think.training.folders import ANSWERS, begin, is_leader, working_folder
from select_to_think.training.groups import digest, of_slm, prompt_key, split
from select_to_think.training.labels import FILE as LABELS
from select_to_think.training.labels import top_labels
from select_to_think.training.module import DistillModule
from select_to_think.training.settings import DistillConfig
from select_to_think.training.trainer import AdapterTrainer, arguments, row_sums, train_and_publish

if TYPE_CHECKING:
    from select_to_think.session import Session

METHODS = {"kd": "sample", "sft": "llm"}  # who answers the problems


@dataclass(frozen=True, slots=True)
class Written:
    """A line of the journal of answers."""

    index: NonNegativeInt  # of the problem
    output_ids: list[NonNegativeInt]


@dataclass(frozen=True, slots=True)
class Answer:
    """A problem with an answer to learn from, or without one as yet."""

    id: str  # of the item
    tokens: Ids  # (T,) prompt and answer
    start: int  # index of the answer's first token, at least 1
    label: tuple[Ids, Floats] | None = None  # (T - start, K) the LLM's top tokens and their log-probabilities in nats

    @property
    def key(self) -> str:
        """Of the prompt."""
        return prompt_key(self.tokens[: self.start].tolist())

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.tokens)


def train_distill(
    session: Session,
    trajectories: Iterable[Trajectory],
    config: DistillConfig,
    decode: DecodeConfig,
    out: Path,
    *,
    resume: bool = False,
    labels: Path | None = None,
    completions: Path | None = None,
    question_keys: Iterable[str] = (),
    stage: Stage = silent,
) -> dict[str, Any]:
    """Distil the session's LLM into its SLM and write the adapter's folder to `out`; the SLM is left bit-identical.

    Args:
        session: the pair.
        trajectories: a collection made with this SLM; its problems with groups are used, as for a scorer.
        config: kind and optimiser.
        decode: how the problems are answered. Its seed is that of the adapter's start and of the data's order too.
        out: the new folder (must not exist).
        resume: continue the unfinished training that lies beside `out`.
        labels: with `llm_top_k`: a file of labels, which grows; what it holds is not asked again.
        completions: a new file for the prompts and answers that are trained on, as text.
        question_keys: of all items of the collection, kept beside the adapter so that no test can hold one of them.
        stage: makes the progress callback of each part: answering, labelling, training.

    Returns:
        What `distill.json` holds under `training`: counts, seconds, and, `before` and per epoch, on held-out items,
        `nats_per_token` (the loss) and `agreement` (share of tokens at which the SLM's best one is the LLM's).

    Raises:
        S2TError: no shared vocabulary, bad data, too little memory, a diverged loss, an existing or unwritable `out`.
    """
    with working_folder(out, resume=resume) as work, ExitStack() as stack:
        check_shared_vocabulary(session.slm, session.llm)
        top_k = config.llm_top_k if config.kind == "kd" else 0
        llm = session.local_llm.trainable if config.kind == "kd" and not top_k else None  # or refuse before the work
        train, held_out = split(problems_of(session, trajectories, decode.max_new_tokens))
        settings = {"config": config.decisive, "decode": decode_settings(decode), "models": fingerprints(session)}
        begin(work, {**settings, "problems": digest(each.tokens for each in (*train, *held_out))})
        args = arguments(config, work, decode.seed, session.slm.trainable.device)
        with args.main_process_first(local=False):  # the others read what it wrote
            with stage("answering the training problems") as progress:
                answers = write_answers(session, [*train, *held_out], METHODS[config.kind], decode, work, progress)
            if top_k:
                with stage("asking the LLM for labels") as progress:
                    answers = labelled(session, answers, top_k, labels or work / LABELS, decode, progress)
        write_completions(completions, session, answers)
        session.give_back()
        set_seed(decode.seed)
        forbidden = sorted(reserved_ids(session.slm) | reserved_ids(session.llm))
        module = DistillModule(session.slm.trainable, config, forbidden, llm)
        _, progress = stack.enter_context(module.lent()), stack.enter_context(stage("distilling"))
        sides = answers[: len(train)], answers[len(train) :]
        trainer = DistillTrainer(module, *sides, args, config.patience, collate, progress)
        trainer.before = trainer.evaluate()
        vars(module).pop("_is_accelerate_prepared", None)  # for evaluation only: it would train without its neighbours
        fill = partial(save, session, module, config, decode, question_keys)
        return train_and_publish(trainer, work, out, resume, fill)


def save(
    session: Session,
    module: DistillModule,
    config: DistillConfig,
    decode: DecodeConfig,
    question_keys: Iterable[str],
    folder: Path,
    summary: dict[str, Any],
) -> None:
    """Fill the folder of a distilled SLM."""
    training = {**summary, "seed": decode.seed, "config": asdict(config), "decode": asdict(decode)}
    slm, llm = session.slm, session.llm
    pair = public_name(slm.name), public_name(llm.name), slm.fingerprint, llm.fingerprint
    save_distilled(folder, module.switch, About(config.kind, *pair, training))
    write_trained_on(folder, question_keys)


def problems_of(session: Session, trajectories: Iterable[Trajectory], max_new_tokens: int) -> list[Answer]:
    """The problems of the trajectories that a scorer learns from.

    Raises:
        S2TError: there are none, or a prompt does not fit the context.
    """
    used = [each for each in of_slm(session.slm, trajectories) if each.groups]
    problems = [Answer(each.id, np.array(each.prompt_ids, np.int64), len(each.prompt_ids)) for each in used]
    if not problems:
        raise S2TError("the collection holds no candidate groups: collect more items or raise the budgets")
    room = min(session.slm.max_positions, session.llm.max_positions) - max_new_tokens
    for problem in problems:
        if problem.length > room:
            raise S2TError(
                f"the prompt of item {problem.id!r} has {problem.length} tokens, which with "
                f"{max_new_tokens} new ones exceed the context: lower --max-new-tokens"
            )
    return problems


def write_answers(
    session: Session,
    problems: Sequence[Answer],
    method: str,
    decode: DecodeConfig,
    work: Path,
    progress: Progress | None,
) -> list[Answer]:
    """Every problem with its answer by `method`, in order; those that a killed run wrote are read from its journal."""
    with Journal(work / ANSWERS, Written) as journal:
        outputs = {each.index: each.output_ids for each in journal.records}
        todo = [index for index in range(len(problems)) if index not in outputs]
        for place, generation in session.stream((problems[index].tokens.tolist() for index in todo), method, decode):
            index = todo[place]
            outputs[index] = list(generation.tokens)
            if is_leader():
                journal.append({"index": index, "output_ids": outputs[index]})
            if progress is not None:
                progress(len(outputs), len(problems))
    return [
        replace(problem, tokens=np.concatenate([problem.tokens, np.array(outputs[index], np.int64)]))
        for index, problem in enumerate(problems)
    ]


def labelled(
    session: Session, answers: Sequence[Answer], top_k: int, file: Path, decode: DecodeConfig, progress: Progress | None
) -> list[Answer]:
    """The answers with what the LLM says at each of their tokens."""
    pairs = [(each.tokens[: each.start].tolist(), each.tokens[each.start :].tolist()) for each in answers]
    labels = top_labels(session, pairs, top_k, file, decode, progress)
    return [replace(answer, label=label) for answer, label in zip(answers, labels, strict=True)]


def write_completions(file: Path | None, session: Session, answers: Sequence[Answer]) -> None:
    """Write prompts and answers as text, a line each, if there is a file for them; one process does."""
    if file is None or not is_leader():
        return
    tokenizer = session.slm.tokenizer
    write_jsonl_atomic(
        file,
        (
            {
                "id": each.id,
                "prompt": tokenizer.decode(each.tokens[: each.start].tolist()),
                "completion": session.text(each.tokens[each.start :].tolist()),
            }
            for each in answers
        ),
    )


def collate(batch: Sequence[Answer]) -> dict[str, Tensor]:
    """Arrays of B answers, padded on the right, with N tokens to learn."""
    ids = torch.zeros(len(batch), max(answer.length for answer in batch), dtype=torch.long)
    rows, places = [], []
    for row, answer in enumerate(batch):
        ids[row, : answer.length] = torch.from_numpy(answer.tokens)
        before = torch.arange(answer.start - 1, answer.length - 1)
        rows.append(torch.full_like(before, row))
        places.append(before + row * ids.shape[1])
    labels = [answer.label for answer in batch if answer.label is not None]
    top: dict[str, Tensor] = {}
    if labels:
        for name, arrays in zip(("llm_ids", "llm_logprobs"), zip(*labels, strict=True), strict=True):
            top[name] = torch.from_numpy(np.concatenate(arrays))  # (N, K)
    return {
        "ids": ids,  # (B, L)
        "rows": torch.cat(rows),  # (N,) of the answers' tokens
        "places": torch.cat(places),  # (N,) of the token before each, among the B x L
        **top,
    }


class DistillTrainer(AdapterTrainer):
    """Means over the tokens of the answers."""

    metrics = "nats_per_token", "agreement"
    agreement, nats = "agreement", "nats_per_token"
    before: Mapping[str, float]  # what an evaluation said before the training

    def sizes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """(answer tokens,)."""
        return torch.tensor([len(batch["places"])], dtype=torch.float32)

    def mean_loss(self, out: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Mean over tokens."""
        return out["losses"].sum() / counts[0]

    def measured(self, batch: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> Tensor:
        """Sums over each row of 1, loss and agreement, (B, 3)."""
        values = torch.stack([torch.ones_like(out["losses"]), out["losses"], out["agree"].float()], 1)
        return row_sums(out["rows"], values, len(batch["ids"]))

    def summary(self) -> dict[str, Any]:
        """With what was learned from, and the metrics before."""
        sides: Any = self.train_dataset, self.eval_dataset
        tokens = [sum(answer.length - answer.start for answer in side) for side in sides]
        return {
            "answers": len(sides[0]),
            "tokens": tokens[0],
            "validation_tokens": tokens[1],
            "before": {name: self.before[f"eval_{name}"] for name in self.metrics},
            **super().summary(),
        }
