"""`s2t export --format gguf`: the file alone decides, scores, is served and is shown as the pair it was made from.

The converter here is `write_gguf`, in the place of llama.cpp's own; that one is run by `tests/servers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: pip install 'select-to-think[llama-cpp]'")
pytest.importorskip("gguf", reason="gguf is not installed: pip install 'select-to-think[llama-cpp]'")
pytest.importorskip("fastapi", reason="the server needs the extra `serve`")

from headless import chromium, new_page
from select_to_think.cli.app import main
from select_to_think.cli.data import pair_items
from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.contexts.llama_cpp_backend import LlamaCppBackend
from select_to_think.contexts.protocol import Ask
from select_to_think.models.exported import read_exported
from select_to_think.models.gguf import load_gguf
from select_to_think.models.scorer import load_scorer
from select_to_think.session import Session
from select_to_think.structures import Extend, Observe, S2TError
from select_to_think.training.export import LlamaCpp, export
from serve import Served, serving
from test_page import api_answer, ask, card, text_of

SMALL = RuntimeConfig(kv_memory_gib=0.05, max_wait_steps=32)
SELECT = SelectConfig(trigger_budget=0.2)
DECODE = DecodeConfig(max_new_tokens=64)
CONVERTER = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from transformers import AutoModelForCausalLM
from conversion.base import TextModel
from tiny_gguf import write_gguf
TextModel().get_vocab_base_pre(None)
folder, _, file, _, kind = sys.argv[1:]
assert kind == "f32"
write_gguf(Path(file), AutoModelForCausalLM.from_pretrained(folder))
"""
UNKNOWN = """
class TextModel:
    def get_vocab_base_pre(self, tokenizer):
        raise NotImplementedError("nobody knows it")
"""


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in the place of llama.cpp's own, that does not know the tokenizer either."""
    import gguf

    import select_to_think

    folder = tmp_path_factory.mktemp("llama")
    (folder / "conversion").mkdir()
    (folder / "conversion" / "base.py").write_text(UNKNOWN)
    places = (__file__, Path(select_to_think.__file__).parent, Path(gguf.__file__).parent)
    program = folder / "convert_hf_to_gguf.py"
    program.write_text(CONVERTER.format(paths=[str(Path(place).parent) for place in places]))
    return program


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.load(runtime=SMALL)


def exported(session: Session, out: Path, converter: Path, mode: str, weights: str = "F32") -> PairConfig:
    """The SLM of an export, and nothing else given."""
    said: list[str] = []
    select = SelectConfig(scorer_mode=mode)  # type: ignore[arg-type]
    export(session, "s2t-local", select, "gguf", out, LlamaCpp(converter, weights, said.append))
    assert len(said) == 1 and "does not know the tokenizer of" in said[0]
    return PairConfig(slm=str(out / "model.gguf"))


@pytest.fixture(scope="module")
def alone(session: Session, converter: Path, tmp_path_factory: pytest.TempPathFactory) -> PairConfig:
    return exported(session, tmp_path_factory.mktemp("exported") / "out", converter, "activated")


@pytest.mark.parametrize(
    ("mode", "merged"), [("coupled", False), ("coupled", True), ("proposer", False), ("activated", False)]
)
def test_the_file_alone_decides_as_the_pair(
    mode: str, merged: bool, session: Session, converter: Path, tmp_path: Path
) -> None:
    source = session
    if merged:
        export(session, "s2t-local", SelectConfig(scorer_mode="coupled"), "merged", tmp_path / "merged")
        source = Session.load(PairConfig(slm=str(tmp_path / "merged")))
    config = exported(source, tmp_path / "out", converter, mode)
    assert (tmp_path / "out" / "adapter.gguf").exists() != merged
    questions = [item.question for item in pair_items(PairConfig(), "validation", 3)]
    select = SelectConfig(trigger_budget=0.2, scorer_mode=mode)  # type: ignore[arg-type]
    expected = session.generate(questions, "s2t-local", DECODE, select)
    found = Session.load(config, SMALL).generate(questions, "s2t-local", DECODE, SELECT)
    assert any(answer.fired_count for answer in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens
        for step, same in zip(ours.steps, theirs.steps, strict=True):
            assert step.fired == same.fired and step.scores == pytest.approx(same.scores, abs=1e-3)


def test_logits_of_the_bins_are_the_scores(session: Session, converter: Path, tmp_path: Path) -> None:
    """For other programs, with `adapter.gguf` on."""
    config = exported(session, tmp_path / "out", converter, "coupled")
    manifest, loaded = read_exported(tmp_path / "out"), load_gguf(str(config.slm))
    assert manifest.rows is not None
    scorer = load_scorer(tmp_path / "out" / "scorer", loaded)
    backend = LlamaCppBackend(loaded, config=SMALL)
    file = str(tmp_path / "out" / "adapter.gguf").encode()
    backend.loras["scorer"] = backend.functions.llama_adapter_lora_init(loaded.weights, file)
    backend.adapters.add("scorer")
    backend.bin_rows["scorer"] = scorer.bin_rows
    context = backend.open(64, "scorer")
    look = Observe(bins=True, ids=(tuple(manifest.rows.bin_ids),))
    wanted = Ask(context, Extend("slm", session.slm_prompt("How many keys does Ida have?"), look))
    backend.submit(wanted)
    while wanted.answer is None:
        backend.step()
    logprobs = torch.from_numpy(wanted.answer.asked_logprobs[0])  # type: ignore[union-attr]
    score = float(logprobs.softmax(-1) @ torch.linspace(0, 1, len(logprobs)))
    assert score == pytest.approx(float(wanted.answer.bin_scores[0]), abs=1e-5)  # type: ignore[union-attr]


def test_weights_of_another_type_are_the_same_model(session: Session, converter: Path, tmp_path: Path) -> None:
    config = exported(session, tmp_path / "out", converter, "activated", "Q8_0")
    loaded = load_gguf(str(config.slm))
    assert loaded.dtype == "Q8_0" and loaded.fingerprint == session.slm.fingerprint
    question = pair_items(PairConfig(), "validation", 1)[0].question
    (answer,) = Session.load(config, SMALL).generate([question], "s2t-local", DECODE, SELECT)
    assert answer.fired_count and answer.tokens


def test_what_cannot_be_made_is_one_line_and_leaves_nothing(converter: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise ValueError('no such architecture')")
    (tmp_path / "conversion").mkdir()
    (tmp_path / "conversion" / "base.py").write_text(UNKNOWN)
    before = sorted(tmp_path.iterdir())
    for flags, says in (
        ([], "name its convert_hf_to_gguf.py with --converter"),
        (["--converter", str(tmp_path / "none.py")], "there is no"),
        (["--converter", str(broken)], "no such architecture"),
        (["--converter", str(converter), "--weights", "Q8_1"], "did you mean 'Q8_0'"),
    ):
        assert main(["export", "--format", "gguf", "--out", str(tmp_path / "out"), *flags]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("error:") and says in line
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(S2TError, match="there is no file"):
        load_gguf(str(tmp_path / "out" / "model.gguf"))


@pytest.fixture(scope="module")
def served(alone: PairConfig) -> Iterator[Served]:
    with serving(Session.load(alone, SMALL)) as found:
        yield found


def test_it_is_served(served: Served, session: Session) -> None:
    question = pair_items(PairConfig(), "validation", 1)[0].question
    for method in ("greedy", "s2t-local"):
        (expected,) = session.generate([question], method, DecodeConfig(max_new_tokens=128), SelectConfig())
        choice = api_answer(served, question, method)
        assert choice["message"]["content"] == expected.text
        assert tuple(step["token"] for step in choice["s2t"]["steps"]) == expected.tokens


def test_the_page_shows_its_decisions(served: Served) -> None:
    for browser in chromium():
        page = new_page(browser)
        page.goto(served.url)
        ask(page)
        expected = api_answer(served)
        assert text_of(card(page)) == expected["message"]["content"]
        flips = sum(step["flip"] for step in expected["s2t"]["steps"])
        assert page.locator(".token.flip").count() == flips > 0
        assert page.messages == []  # type: ignore[attr-defined]
