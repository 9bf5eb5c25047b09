"""`s2t export`: what was trained, in the forms of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from select_to_think.cli.options import Only, name_option
from select_to_think.cli.output import Reply, note
from select_to_think.config import PairConfig, SelectConfig
from select_to_think.methods import METHODS

FORMATS = ("peft", "merged", "vllm", "gguf")
TRAINED = [name for name, method in METHODS.items() if method.uses in ("scorer", "distill")]
WEIGHTS = ("F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")  # and whatever else it knows
FIELDS = ("pair", "slm", "scorer", "distill", "calibration", "device", "dtype", "trust_remote_code")


def export(
    pair: Annotated[PairConfig, Only(FIELDS)],
    select: Annotated[SelectConfig, Only(("scorer_mode", "score"), (("scorer_mode", "coupled"),))],
    format: Annotated[str, name_option("What will load it.", FORMATS, metavar="NAME")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new folder.")],
    method: Annotated[
        str, name_option("What is exported: its scorer, or its distilled SLM.", TRAINED, metavar="NAME")
    ] = "s2t-local",
    converter: Annotated[
        Path | None,
        typer.Option("--converter", metavar="FILE", help="gguf: convert_hf_to_gguf.py of a llama.cpp source tree."),
    ] = None,
    weights: Annotated[
        str, name_option("gguf: type of the weights, as llama.cpp calls it.", WEIGHTS, metavar="NAME")
    ] = "Q8_0",
) -> Reply:
    """Write a scorer or a distilled SLM for other programs: an adapter for PEFT, one merged checkpoint, or a copy of
    the SLM that scores, for vLLM or llama.cpp.

    The scores are logits of reserved ids, which must never be emitted; s2t.json in the folder names them.
    """
    from select_to_think.session import Session
    from select_to_think.training.export import LlamaCpp
    from select_to_think.training.export import export as write

    manifest = write(Session.load(pair), method, select, format, out, LlamaCpp(converter, weights, note))
    return Reply({"out": str(out), **manifest}, lambda console: show(console, out, manifest))


def show(console: Console, out: Path, manifest: dict[str, Any]) -> None:
    """Where it is, and how it scores."""
    rows = manifest["rows"]
    what = f"{rows['mode']} scorer, {rows['score']} score" if rows else "distilled SLM"
    console.print(f"{manifest['format']}: {what} of {manifest['slm']}", soft_wrap=True)
    if rows:
        ids = rows["bin_ids"]
        console.print(f"{len(ids)} bins are the logits of the ids {ids[0]} to {ids[-1]}; never emit a reserved id")
    console.print(f"exported: {out}", soft_wrap=True)
