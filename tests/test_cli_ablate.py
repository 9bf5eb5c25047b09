"""`s2t ablate`, and the refusals of the mentor's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fake_session import DECODE, FakeSession, fake_items
from select_to_think.cli import app
from select_to_think.config import EvalSettings
from select_to_think.evaluation.ablation import ablate

FEW = ("--split", "validation", "--limit", "1", "--max-new-tokens", "40")


def test_a_grid_becomes_a_table_and_a_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid"
    grid = ("--method", "mentor-coin", "--consult-rates", "0,1", "--segment-lengths", "1,8", "--out", str(out))
    assert app.main(["ablate", *FEW, *grid, "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.count(f"results go to {out}\n") == 1
    payload = json.loads(said.out)
    cells = payload["results"]
    assert [(c["consult_rate"], c["segment_tokens"]) for c in cells] == [(0, None), (1, 1), (1, 8)]
    assert cells[0]["consultations"] == 0 < cells[1]["consultations"] and cells[0]["llm_tokens_share"] == 0
    assert all(c["n"] == 3 and c["seconds_per_answer"] > 0 for c in cells)
    figure = (out / "ablation.svg").read_text()
    assert figure.startswith("<svg") and "segments of 1 tokens" in figure and "Seconds per answer" in figure
    assert json.loads((out / "ablation.json").read_text()) == payload
    assert app.main(["ablate", *FEW, *grid]) == 0
    shown = capsys.readouterr().out
    assert all(f"{100 * cell['llm_tokens_share']:.1f} %" in shown for cell in cells)
    assert (out / "ablation.svg").read_text() == figure


def test_methods_that_share_a_folder_are_told_apart(tmp_path: Path) -> None:
    session: Any = FakeSession()
    for method in ("mentor-free", "mentor-coin"):
        grid = {"rates": [0.0, 0.5], "lengths": [4]}
        found = ablate(session, fake_items(), method, EvalSettings(DECODE), tmp_path, **grid)
        assert list(found) == [(0.0, None), (0.5, 4)] and {row.method for row in found.values()} == {method}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ablate", "--method", "greedy"), "mentor"),
        (("ablate", "--consult-rates", "0,much"), "comma-separated"),
        (("ablate", "--consult-rates", ","), "--consult-rates are fractions"),
        (("ablate", "--segment-lengths", "-1"), "--segment-lengths are numbers of tokens"),
        (("ablate", "--segment-lengths", "0,1"), "segment_tokens must be at least 1"),
        (("ablate", "--consult-rates", "2"), "between 0.0 and 1.0"),
        (("eval", "--methods", "mentor-free", "--order", "ba"), "unknown order"),
        (("eval", "--methods", "mentor-free", "--verifier-template", "Which?"), "{question}"),
        (("eval", "--methods", "mentor-mlp", "--verifier", "nowhere"), "s2t train verifier"),
        (("eval", "--methods", "mentor-fre"), "mentor-free"),
        (("eval", "--methods", "greedy", "--shard", "4/4"), "use fewer"),
        (("eval", "--methods", "greedy", "--seeds", "1,x"), "got '1,x'"),
    ],
)
def test_refusals_are_one_line(words, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, *flags = words
    assert app.main([command, *FEW, *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and "results go to" not in error
