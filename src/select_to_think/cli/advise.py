"""`s2t advise`: does it pay for this pair, which way, and what would training gain?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.text import Text

from select_to_think.advice.settings import AdviseConfig, ProbeTraining
from select_to_think.cli.data import Out, Style, choose_items, folder_for
from select_to_think.cli.options import Batching, Models, Only
from select_to_think.cli.output import Reply, note
from select_to_think.cli.progress import progress
from select_to_think.cli.report import FILE_NAME as REPORT
from select_to_think.cli.tables import show_table
from select_to_think.config import DataConfig, EvalSettings, MentorConfig, PriceConfig, SelectConfig
from select_to_think.structures import S2TError

if TYPE_CHECKING:
    from select_to_think.advice.document import Advice
    from select_to_think.evaluation.items import Item

Candidates = Annotated[SelectConfig, Only(("candidates",))]
Consulting = Annotated[MentorConfig, Only(("consult_rate", "segment_tokens"))]
Questions = Annotated[DataConfig, Only(defaults=(("limit", 100),))]


def advise(
    pair: Models,
    decode: Batching,
    config: AdviseConfig,
    training: ProbeTraining,
    select: Candidates,
    mentor: Consulting,
    data: Questions,
    style: Style,
    prices: PriceConfig,
    out: Out = None,
) -> Reply:
    """What to do with a pair, from 100 to 300 questions: headroom, mistakes, ways with gain and cost, advice.

    Nothing needs to be trained or calibrated before. Without answers, the LLM's count as right.
    """
    items = choose_items(pair, data, style, purpose="validation")
    train_items = training_items(pair, config, data, style)
    from select_to_think.advice.advise import advise as run
    from select_to_think.analysis.report import write_report
    from select_to_think.session import Session

    asked = config.budgets, config.modes, config.probe
    folder = folder_for("advise", out, pair, decode, asked, training, select, mentor, data, style)
    advice = run(
        Session.load(pair),
        items,
        config,
        training,
        EvalSettings(decode, select, mentor, prices=prices),
        out=folder,
        train_items=train_items,
        begun=lambda: note(f"{len(items)} questions; everything goes to {folder}"),
        stage=progress,
    )
    page = write_report([folder], folder / REPORT)
    payload = {**advice.to_json(), "report": str(page)}
    return Reply(payload, lambda console: show(console, advice, page))


def training_items(pair: Models, config: AdviseConfig, data: DataConfig, style: Style) -> list[Item]:
    """The questions that `--train` trains on."""
    if not config.train:
        return []
    if config.train_data is None and (data.data is not None or pair.slm is not None) and data.benchmarks is None:
        raise S2TError("--train needs other questions to train on: name them with --train-data FILE.jsonl")
    source = DataConfig(data=config.train_data, limit=config.train_items)
    if config.train_data is None:
        skip = data.skip + (data.limit or 0) if data.benchmarks else 0  # advice is taken from a train split too
        source = DataConfig(benchmarks=data.benchmarks, data_dir=data.data_dir, skip=skip, limit=config.train_items)
    return choose_items(pair, source, style, purpose="train")


def show(console: Console, advice: Advice, page: Path) -> None:
    """The recommendation first, then what it rests on."""
    from select_to_think.analysis.advice import divergence_table, headline, recall_table, ways_table

    console.print(Text(headline(advice), style="bold"))
    for words in advice.reasons:
        console.print(f"- {words}")
    console.print("\nHow sure is that?")
    for words in advice.recommendation.uncertainty:
        console.print(f"- {words}", style="dim")
    for table in (ways_table(advice), divergence_table(advice), recall_table(advice)):
        show_table(console, table)
    for remark in advice.provenance.get("notes", []):
        console.print(remark, style="dim")
    console.print(f"report: {page.resolve()}", soft_wrap=True)
