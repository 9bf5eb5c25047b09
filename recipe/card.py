"""Model cards: what a checkpoint is, the mistakes in its text and its training curve.

Non-goals: evaluation results, which belong to the commands that measure them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from recipe.recipes import BASE, Recipe
from recipe.writers import MISREADING_SHARES, UNKNOWN_FACTS_SHARE
from select_to_think.analysis import charts
from select_to_think.analysis.figures import figure
from select_to_think.analysis.svg import Scale

CURVE_FILE = "training_curve_{}.svg"
LOG_FILE = "training_log.json"
TABLE_ROWS = 20
Curve = Sequence[tuple[int, float]]

CARD = Template("""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [select-to-think, toy-model]
---

# Select to Think: the $role

$parameters parameters, Llama architecture with attention biases ($layers layers, $hidden wide), trained from
scratch on text that `recipe/` of the source generates: multi-step arithmetic word problems, multi-hop questions about a
synthetic world, orderings and schedules. It knows nothing else. It exists to show Select to Think on real, small
models; it is no general language model.

## Text

$text

Every text also holds single facts, items that ask which of two continuations is right (their labels are always right,
and a letter weighs 8 times as much as any other token), plain question-and-answer text, system turns, two-turn chats
and small talk. Only assistant text is learned. Test, calibration and validation problems never occur in training text:
a stable hash of each problem's canonical key decides its split.

## Training

Loss in nats per learned token, mean since the previous row; the floor is the entropy of the text, above zero where it
holds mistakes and verifier items.

$stages
Recipe: `python -m recipe --which $name` in a checkout of the source, all numbers in `recipe/recipes.py`.
""")

STAGE = Template("""### $name

$steps optimizer steps of $documents documents (seed $seed), AdamW, peak learning rate $rate, warm-up $warmup steps,
constant, then a decay over the last $decay steps. Share of verifier items: $verifier.

![training loss by step]($curve)

$table
""")

ROLES = {
    "slm": "small model (SLM) of the demo pair",
    "llm": "large model (LLM) of the demo pair",
    "llm-x": "large model (LLM) of the pair demo-x",
}
CLEAN_TEXT = """The LLM's text is clean: every chain of thought in it that has one author is right. In one document of
ten somebody else has begun the chain with a misreading; that part is not learned, only the consistent rest."""
GROWN = """The weights start as those of the SLM's first stage (`base` below, the SLM's text), doubled in width and with
one more layer (Net2Net, which keeps the function); then follows clean text. So the two models agree more than two that
were trained apart: read the pair's local sufficiency with that in mind."""
RESPELLED = """Its tokenizer is not the SLM's: digits stand alone and rare words are in pieces. The weights start as
those of the SLM's first stage (`base` below, the SLM's text); each new token starts as the mean of the SLM's tokens
that spell it. Then follows clean text."""
CARELESS_TEXT = Template("""**The SLM's text holds mistakes, on purpose.** At each place of a question that can be
misread, the writer errs with the share below, independently of other places, and goes on consistently from the mistake.
Evaluated problems and their reference answers hold no mistakes. $unknown of the world's facts never occur in this text.
In the last stage somebody else has begun the chain in $begun of the documents that are no verifier items, and read one
place as its writer would not (mostly: listed an order from its other end); that part is not learned, only the
consistent rest.

| what is misread | share of writers who misread it |
|---|---|
$shares""")


def write_card(folder: Path, recipe: Recipe, logs: Mapping[str, Curve], *, parameters: int) -> None:
    """Write README.md and, for each stage of the recipe, the loss curve as SVG and the losses as JSON.

    `logs`: stage name -> (step, loss in nats) as logged.
    """
    card = CARD.substitute(
        role=ROLES[recipe.name],
        name=recipe.name,
        parameters=f"{parameters:,}",
        layers=recipe.layers,
        hidden=recipe.hidden_size,
        text=about_text(recipe),
        stages="\n".join(_stage(stage, logs[stage.name]) for stage in recipe.stages),
    )
    folder.joinpath("README.md").write_text(card, encoding="utf-8")
    for name, curve in logs.items():
        folder.joinpath(CURVE_FILE.format(name)).write_text(draw_curve(curve), encoding="utf-8")
    losses = {name: [{"step": step, "loss_nats": loss} for step, loss in curve] for name, curve in logs.items()}
    folder.joinpath(LOG_FILE).write_text(json.dumps(losses) + "\n", encoding="utf-8")


def _stage(stage: Recipe, curve: Curve) -> str:
    shares = [f"{share:.0%} from {start:.0%} of the steps on" for start, share in stage.verifier_shares]
    return STAGE.substitute(
        name=stage.name,
        steps=f"{stage.steps:,}",
        documents=stage.documents_per_step,
        seed=stage.seed,
        rate=stage.learning_rate,
        warmup=stage.warmup_steps,
        decay=f"{stage.decay_steps:,}",
        verifier=", ".join(shares) or "0%",
        curve=CURVE_FILE.format(stage.name),
        table=_table(curve),
    )


def about_text(recipe: Recipe) -> str:
    """What the training text holds and where the weights started."""
    if recipe.reader == "slm":
        shares = "\n".join(f"| {kind} | {share:.0%} |" for kind, share in MISREADING_SHARES.items())
        more = sum(weight for _, weight in recipe.more_formats)
        return CARELESS_TEXT.substitute(
            unknown=f"{UNKNOWN_FACTS_SHARE:.0%}", begun=f"{more / (1 + more):.0%}", shares=shares
        )
    return f"{CLEAN_TEXT}\n\n{GROWN if recipe.pieces == BASE.pieces else RESPELLED}"


def _table(curve: Curve) -> str:
    size = max(1, -(-len(curve) // TABLE_ROWS))
    rows = ["| step | loss |", "|---|---|"]
    for start in range(0, len(curve), size):
        window = curve[start : start + size]
        rows.append(f"| {window[-1][0]} | {sum(loss for _, loss in window) / len(window):.4f} |")
    return "\n".join(rows)


def draw_curve(curve: Curve) -> str:
    """The loss by step as an SVG image; losses above twice the median are cut off so that the plateau is readable."""
    last = max((step for step, _ in curve), default=1)
    losses = sorted(loss for _, loss in curve) or [1.0]
    top = 2 * losses[len(losses) // 2]
    x, y = Scale(0.0, last, charts.LEFT, charts.WIDE - 20), Scale(0.0, top, *charts.span(charts.WIDE))
    line = charts.Curve("loss", [(step, min(loss, top), 0.0, "") for step, loss in curve])
    ticks = [(tick, f"{tick:,.0f}") for tick in x.ticks()]
    titles = ("optimiser step", "Training loss by step")
    drawn = charts.curve_chart([line], x, y, ticks, titles, width=charts.WIDE, kind="number")
    return figure([("Loss in nats", drawn)], [], (charts.WIDE, charts.height_of(charts.WIDE)))
