"""`s2t train`: scorer, learned trigger and distillation baseline from a collection, the verifier from problems."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from select_to_think.cli.command import INTERRUPTED
from select_to_think.cli.data import Style, choose_items, fitting_items, pair_items
from select_to_think.cli.options import Batching, Models, Only
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.tables import show_facts
from select_to_think.config import DataConfig, DecodeConfig, MentorConfig, PairConfig
from select_to_think.training.settings import DistillConfig, ScorerConfig, TriggerTrainConfig, VerifierTrainConfig

if TYPE_CHECKING:
    from select_to_think.collect.records import Trajectory
    from select_to_think.models.loading import LoadedModel
    from select_to_think.session import Session

SmallModel = Annotated[PairConfig, Only(("pair", "slm", "device", "dtype", "trust_remote_code"))]
Collections = Annotated[
    list[Path], typer.Option("--collection", metavar="FOLDER", help="What `s2t collect` wrote; may be given again.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="INT", min=0, help="Seed of start and order.")]
Consulting = Annotated[MentorConfig, Only(defaults=(("consult_rate", 1.0),))]
Resume = Annotated[bool, typer.Option("--resume", metavar="", help="Go on with the unfinished training beside --out.")]


def trajectories(folders: list[Path]) -> Iterator[Trajectory]:
    """Every trajectory of several collections."""
    from select_to_think.collect.records import read_trajectories

    return itertools.chain.from_iterable(map(read_trajectories, folders))


def collected_with(slm: LoadedModel, folders: list[Path]) -> Iterator[Trajectory]:
    """Every trajectory of several collections, said beforehand which were made with other weights than the SLM's."""
    from select_to_think.collect.records import read_manifest

    for folder in folders:
        if read_manifest(folder)["fingerprints"].get("slm") != slm.fingerprint:
            note(f"{folder} was not collected with {slm.name}: right only if that was the same model in another form")
    return trajectories(folders)


def seen_questions(folders: list[Path]) -> list[str]:
    """The keys of all questions of several collections."""
    from select_to_think.collect.records import question_keys

    return [key for folder in folders for key in question_keys(folder)]


def scorer(
    pair: SmallModel,
    config: ScorerConfig,
    collection: Collections,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new scorer folder.")],
    seed: Seed = 0,
    resume: Resume = False,
) -> Reply:
    """Train the scorer with which the SLM selects among its own candidates (s2t-local)."""
    from select_to_think.session import Session
    from select_to_think.training.folders import is_leader
    from select_to_think.training.scorer import train_scorer

    session = Session.load(replace(pair, scorer=str(out)))
    with progress("training the scorer") as report:
        summary = train_scorer(
            session.slm,
            collected_with(session.slm, collection),
            config,
            out,
            seed=seed,
            resume=resume,
            question_keys=seen_questions(collection),
            progress=report,
        )
    own_problems = config.mode == "coupled" and pair.slm is None and is_leader()
    try:
        thresholds = calibrated(session) if own_problems else None
    except KeyboardInterrupt:
        note(f"stopped; the scorer is whole, its thresholds are missing: s2t calibrate --scorer {out}")
        raise typer.Exit(INTERRUPTED) from None
    about = {"mode": config.mode, "score": config.score, "calibration": thresholds}
    payload = {"schema": 1, "scorer": str(out), **about, **summary}
    return Reply(payload, lambda console: show_scorer(console, payload))


def calibrated(session: Session) -> str:
    """Give the session's coupled scorer thresholds from the bundled pair's calibration problems; their file."""
    from select_to_think.evaluation.calibrate import calibrate_coupled, save_calibration
    from select_to_think.triggers.calibration import CALIBRATION

    path = Path(str(session.config.scorer)) / CALIBRATION
    with progress("calibrating") as report:
        calibration = calibrate_coupled(session, pair_items(session.config, "calibration", None), progress=report)
    save_calibration(calibration, path)
    return str(path)


def show_epochs(
    console: Console, title: str, columns: Mapping[str, str], epochs: Sequence[Mapping[str, float]]
) -> None:
    """One line per epoch: training loss and what the evaluation said (heading -> name), blank where it said nothing."""
    table = Table(title=title, title_justify="left")
    for heading in ("epoch", "train loss", *columns):
        table.add_column(heading, justify="right")
    for epoch in epochs:
        values = (epoch.get(name) for name in ("train_loss", *columns.values()))
        table.add_row(f"{epoch['epoch']:g}", *("" if value is None else f"{value:.4f}" for value in values))
    console.print(table)


def show_memory(console: Console, payload: Mapping[str, Any]) -> None:
    """What the training needed beside the models, as far as it could be predicted."""
    if memory := payload["memory"]:
        line = f"predicted peak beside the models: {memory['needed_bytes'] / 2**30:.2f} GiB"
        console.print(line, soft_wrap=True)


def show_scorer(console: Console, payload: dict[str, Any]) -> None:
    """One line per epoch, and what to do next."""
    columns = {"cross-entropy": "cross_entropy", "agree_at_1": "agree_at_1", "Spearman": "spearman"}
    show_epochs(console, f"{payload['mode']} scorer, {payload['score']} score", columns, payload["epochs"])
    console.print(
        f"greedy agrees with the LLM's choice at {payload['greedy_agree_at_1']:.3f} of the held-out groups, "
        f"the scorer at {payload['agree_at_1']:.3f}; {payload['trainable_parameters']:,} parameters, "
        f"{payload['groups']:,} groups, {payload['seconds']:.0f} s",
        soft_wrap=True,
    )
    show_memory(console, payload)
    console.print(f"scorer: {payload['scorer']}", soft_wrap=True)
    if payload["mode"] == "coupled" and payload["calibration"] is None:
        console.print(
            f"next, its thresholds: s2t calibrate --slm ... --scorer {payload['scorer']} --data ...",
            soft_wrap=True,
        )


def trigger(
    pair: SmallModel,
    config: TriggerTrainConfig,
    collection: Collections,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new folder of the trigger.")],
    seed: Seed = 0,
) -> Reply:
    """Train a head on the SLM's hidden state that predicts where the KL trigger would fire, without an LLM."""
    from select_to_think.session import Session
    from select_to_think.training.trigger import train_trigger

    slm = Session.load(pair).slm
    with progress("training the trigger") as report:
        summary = train_trigger(
            slm,
            collected_with(slm, collection),
            config,
            out,
            seed=seed,
            question_keys=seen_questions(collection),
            progress=report,
        )
    payload = {"schema": 1, "trigger": str(out), **summary}
    return Reply(payload, lambda console: show_trigger(console, payload))


def show_trigger(console: Console, payload: dict[str, Any]) -> None:
    """How well the head predicts the KL trigger on items that nothing was fitted to."""
    names = ("trigger_budget", "spent_budget", "precision", "recall", "roc_auc")
    show_facts(console, {name: f"{payload[name]:.3f}" for name in names}, "learned trigger, on held-out items")
    console.print(f"trigger: {payload['trigger']}", soft_wrap=True)


def distill(
    pair: Models,
    config: DistillConfig,
    decode: Annotated[DecodeConfig, Only(("max_new_tokens", "max_batch", "temperature", "top_p", "seed"))],
    collection: Collections,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new folder of the distilled SLM.")],
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --llm-top-k: keep the labels here, and ask for none that is there."),
    ] = None,
    completions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers that are trained on, as text.")
    ] = None,
    resume: Resume = False,
) -> Reply:
    """Distil the LLM into the SLM on the problems of a collection: what the scorer is compared with (distill)."""
    from select_to_think.session import Session
    from select_to_think.training.distill import train_distill

    summary = train_distill(
        Session.load(pair),
        trajectories(collection),
        config,
        decode,
        out,
        resume=resume,
        labels=labels,
        completions=completions,
        question_keys=seen_questions(collection),
        stage=progress,
    )
    payload = {"schema": 1, "distill": str(out), "kind": config.kind, **summary}
    return Reply(payload, lambda console: show_distill(console, payload))


def show_distill(console: Console, payload: dict[str, Any]) -> None:
    """One line per epoch."""
    columns = {"nats per token": "nats_per_token", "agreement": "agreement"}
    epochs = [{"epoch": 0, **payload["before"]}, *payload["epochs"]]
    show_epochs(console, f"distilled SLM, {payload['kind']}", columns, epochs)
    console.print(
        f"{payload['trainable_parameters']:,} parameters, {payload['answers']:,} answers with {payload['tokens']:,} "
        f"tokens, {payload['steps']:,} steps, {payload['seconds']:.0f} s",
        soft_wrap=True,
    )
    show_memory(console, payload)
    console.print(f"distilled SLM: {payload['distill']}", soft_wrap=True)


def verifier(
    pair: Models,
    config: VerifierTrainConfig,
    mentor: Consulting,
    decode: Batching,
    data: Annotated[DataConfig, Only(("data", "benchmarks", "data_dir", "split", "skip"))],
    style: Style,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new folder of the verifier.")],
    published: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take this published network (safetensors; with --preset), train nothing."),
    ] = None,
    resume: Resume = False,
) -> Reply:
    """Train the network with which mentor-mlp judges between two segments, at the disputes of training problems."""
    from select_to_think.session import Session
    from select_to_think.training.verifier import take_published, train_verifier

    if published is not None:
        payload = {"schema": 1, "verifier": str(out), **take_published(Session.load(pair), published, mentor, out)}
        return Reply(payload, lambda console: console.print(f"verifier: {out}", soft_wrap=True))
    items = choose_items(pair, replace(data, limit=config.items), style, purpose="train")
    session = Session.load(pair)
    items = fitting_items(session, items, decode.max_new_tokens, with_llm=True)
    with progress("judging disputes") as report:
        summary = train_verifier(session, items, config, mentor, decode, out, resume=resume, progress=report)
    payload = {"schema": 1, "verifier": str(out), **summary}
    return Reply(payload, lambda console: show_verifier(console, payload))


def show_verifier(console: Console, payload: dict[str, Any]) -> None:
    """How well it judges disputes of problems that trained nothing."""
    facts = {name: f"{payload[name]:,}" for name in ("disputes", "ties", "trained", "measured")}
    facts |= {name: f"{payload[name]:.3f}" for name in ("roc_auc", "right_choices", "free_right_choices")}
    show_facts(console, facts, "verifier, on held-out problems")
    curve = Table("predicted", "right", "prompts", title="calibration", title_justify="left", box=None)
    for entry in payload["calibration"]:
        curve.add_row(f"{entry['predicted']:.2f}", f"{entry['right']:.2f}", f"{entry['prompts']:,}")
    console.print(curve)
    console.print(f"verifier: {payload['verifier']}", soft_wrap=True)


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What one of the trainings wrote.")],
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="The repository; made if there is none.")],
    private: Annotated[bool, typer.Option("--private", metavar="", help="Make it a private one.")] = False,
) -> Reply:
    """Upload what was trained, with its card, to the Hugging Face hub."""
    from select_to_think.training.card import push as upload

    address = upload(folder, to, private=private)
    return Reply({"schema": 1, "folder": str(folder), "address": address}, lambda console: console.print(address))
