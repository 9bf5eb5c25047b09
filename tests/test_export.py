"""What is exported, loaded by the programs it is meant for: the scores, the proposals and the refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from drive import attached
from select_to_think.cli import export as command
from select_to_think.cli.app import main
from select_to_think.cli.data import pair_items
from select_to_think.config import DecodeConfig, PairConfig, RuntimeConfig, SelectConfig
from select_to_think.models.exported import read_exported
from select_to_think.models.loading import LoadedModel, load_model
from select_to_think.models.scorer import load_scorer
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.training import export as exporting
from select_to_think.training.export import export
from tiny import tiny_model, tiny_tokenizer
from training_fixtures import write_scorer

IDS = torch.arange(3, 15)[None]
SMALL = RuntimeConfig(kv_memory_gib=0.05)
PLENTY, TOO_FEW = 50, 61  # words of the tokenizer, of 64 rows: 14 and 3 are reserved, and the scorer has 5


def tiny(arch: str, words: int, tie: bool = False) -> LoadedModel:
    return LoadedModel(tiny_model(arch, tie=tie), tiny_tokenizer(words), f"tiny-{arch}")


def pair_of(folder: Path, slm: LoadedModel, mode: str = "coupled", score: str = "bins") -> Session:
    """A session on a tiny SLM whose scorer has random weights."""
    return Session(PairConfig(scorer=str(write_scorer(folder / "scorer", slm, mode, score))), slm=slm, runtime=SMALL)


def expected_bin(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1) @ torch.linspace(0, 1, logits.shape[-1])


def reference(session: Session) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and ordinary logits of the adapted SLM after every token of IDS."""
    switch = attached(session.slm, Path(str(session.config.scorer)))
    rows = load_scorer(str(session.config.scorer), session.slm).bin_rows
    switch.set_active(True)
    with torch.no_grad():
        seen = session.slm.model(IDS, output_hidden_states=True)
    switch.set_active(False)
    return expected_bin(seen.hidden_states[-1][0] @ rows.T), seen.logits[0]


def loaded_peft(session: Session, out: Path) -> torch.nn.Module:
    return PeftModel.from_pretrained(
        tiny_model(session.slm.name[5:], tie=session.slm.model.config.tie_word_embeddings), out
    )


def loaded_merged(session: Session, out: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(out)


def loaded_vllm(session: Session, out: Path) -> torch.nn.Module:
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out), out / "scorer")


LOADERS: dict[str, Callable[[Session, Path], torch.nn.Module]] = {
    "peft": loaded_peft,
    "merged": loaded_merged,
    "vllm": loaded_vllm,
}


@pytest.mark.parametrize(("words", "tie"), [(PLENTY, False), (PLENTY, True), (TOO_FEW, False), (TOO_FEW, True)])
@pytest.mark.parametrize("format", LOADERS)
@pytest.mark.parametrize("arch", ["qwen2", "llama", "gemma3", "phi3"])
def test_logits_of_the_bins_are_the_scores(arch: str, format: str, words: int, tie: bool, tmp_path: Path) -> None:
    slm = tiny(arch, words, tie)
    session = pair_of(tmp_path, slm)
    scores, adapted = reference(session)
    before = {name: tensor.clone() for name, tensor in slm.model.state_dict().items()}
    if format == "peft" and words == TOO_FEW:
        with pytest.raises(S2TError, match=r"3 reserved rows .* needs 5: choose --format vllm or merged"):
            export(session, "s2t-local", SelectConfig(), format, tmp_path / "out")
        return
    manifest = export(session, "s2t-local", SelectConfig(), format, tmp_path / "out")
    assert all(torch.equal(tensor, before[name]) for name, tensor in slm.model.state_dict().items())
    bins, ordinary = list(manifest["rows"]["bin_ids"]), sorted(set(range(64)) - set(manifest["reserved_ids"]))
    assert len(bins) == 5 and set(bins) <= set(manifest["reserved_ids"]) and len(ordinary) == words
    with torch.no_grad():
        logits = LOADERS[format](session, tmp_path / "out")(IDS).logits[0]
    torch.testing.assert_close(expected_bin(logits[:, bins]), scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[:, ordinary], adapted[:, ordinary], atol=1e-4, rtol=1e-5)


def test_the_copy_for_vllm_has_a_free_reserved_id_and_proposes_as_the_slm(tmp_path: Path) -> None:
    session = pair_of(tmp_path, tiny("qwen2", TOO_FEW), "proposer")
    manifest = export(session, "s2t-local", SelectConfig(), "vllm", tmp_path / "out")
    copy = load_model(str(tmp_path / "out"))
    assert reserved_ids(copy) == set(manifest["reserved_ids"]) > set(manifest["rows"]["bin_ids"])
    assert copy.model.generation_config.suppress_tokens == sorted(reserved_ids(copy))
    with torch.no_grad():
        assert torch.equal(copy.model(IDS).logits[..., :TOO_FEW], session.slm.model(IDS).logits[..., :TOO_FEW])
        drawn = copy.model.generate(IDS, do_sample=True, temperature=50.0, max_new_tokens=60, eos_token_id=None)
    assert not set(drawn[0].tolist()) & reserved_ids(copy)
    assert read_exported(tmp_path / "out").rows is not None


@pytest.mark.parametrize(("mode", "format"), [("coupled", "vllm"), ("proposer", "vllm"), ("coupled", "merged")])
def test_the_bundled_pair_decides_alike_from_its_export(mode: str, format: str, tmp_path: Path) -> None:
    select = SelectConfig(scorer_mode=mode, trigger_budget=0.2)  # type: ignore[arg-type]
    session = Session.load(runtime=SMALL)
    export(session, "s2t-local", select, format, tmp_path / "out")
    alone = Session.load(PairConfig(slm=str(tmp_path / "out")), SMALL)
    questions = [item.question for item in pair_items(PairConfig(), "validation", 3)]
    decode = DecodeConfig(max_new_tokens=64)
    ours, theirs = (each.generate(questions, "s2t-local", decode, select) for each in (session, alone))
    assert any(answer.fired_count for answer in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert one.tokens == other.tokens
        for step, same in zip(one.steps, other.steps, strict=True):
            assert step.fired == same.fired and step.scores == pytest.approx(same.scores, abs=1e-4)


@pytest.mark.parametrize("kind", ["vllm", "merged"])
def test_an_slm_without_reserved_ids_gets_one_to_pause_with(kind: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("select_to_think.training.export.reserved_ids", lambda _: frozenset())
    session = Session()
    export(session, "distill", SelectConfig(), kind, tmp_path / "out")
    found = read_exported(tmp_path / "out")
    assert (list(found.reserved_ids), found.pause_id) == ([session.slm.vocab_size], session.slm.vocab_size)


def test_a_merged_distilled_slm_is_greedy_what_distill_is(tmp_path: Path) -> None:
    session = Session.load(runtime=SMALL)
    manifest = export(session, "distill", SelectConfig(), "merged", tmp_path / "out")
    assert manifest["rows"] is None
    questions = [item.question for item in pair_items(PairConfig(), "validation", 3)]
    decode = DecodeConfig(max_new_tokens=64)
    alone = Session.load(PairConfig(slm=str(tmp_path / "out")), SMALL)
    expected = [answer.tokens for answer in session.generate(questions, "distill", decode)]
    assert [answer.tokens for answer in alone.generate(questions, "greedy", decode)] == expected
    assert [answer.tokens for answer in session.generate(questions, "greedy", decode)] != expected


@pytest.mark.parametrize(
    ("mode", "format", "says"),
    [
        ("activated", "merged", "change what the SLM proposes"),
        ("proposer", "merged", "change what the SLM proposes"),
        ("activated", "vllm", "choose --scorer-mode coupled or proposer"),
        ("coupled", "vlm", "did you mean 'vllm'"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(mode: str, format: str, says: str, tmp_path: Path) -> None:
    session = pair_of(tmp_path, tiny("qwen2", PLENTY), mode)
    with pytest.raises(S2TError, match=says):
        export(session, "s2t-local", SelectConfig(), format, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["scorer"]


@pytest.mark.parametrize("format", LOADERS)
def test_a_head_whose_logits_are_capped_is_refused(format: str, tmp_path: Path) -> None:
    slm = tiny("gemma3", PLENTY)
    slm.model.config.final_logit_softcapping = 2.0
    session = pair_of(tmp_path, slm)
    with pytest.raises(S2TError, match="scales or caps the logits"):
        export(session, "s2t-local", SelectConfig(), format, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["scorer"]


def test_a_failure_in_the_middle_leaves_nothing_and_nothing_is_overwritten(tmp_path: Path, monkeypatch) -> None:
    session = pair_of(tmp_path, tiny("qwen2", PLENTY))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(S2TError, match="already exists"):
        export(session, "s2t-local", SelectConfig(), "vllm", tmp_path / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "copy_trained", full)
    with pytest.raises(S2TError, match=r"cannot write .*new.* free some space"):
        export(session, "s2t-local", SelectConfig(), "vllm", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "scorer"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("format", LOADERS)
def test_what_is_merged_is_not_exported_again(format: str, tmp_path: Path) -> None:
    export(Session.load(), "s2t-local", SelectConfig(scorer_mode="coupled"), "merged", tmp_path / "out")
    merged = Session.load(PairConfig(slm=str(tmp_path / "out")))
    with pytest.raises(S2TError, match="merged already: copy it, or choose --format gguf"):
        export(merged, "s2t-local", SelectConfig(), format, tmp_path / "again")


def test_a_damaged_export_is_one_line(tmp_path: Path) -> None:
    export(Session.load(), "s2t-local", SelectConfig(scorer_mode="coupled"), "vllm", tmp_path / "out")
    file = tmp_path / "out" / "s2t.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": "onnx"}))
    with pytest.raises(S2TError, match=r"s2t\.json: .*run `s2t export` again"):
        Session.load(PairConfig(slm=str(tmp_path / "out")))


def test_flags_win_over_what_lies_beside_the_slm(tmp_path: Path) -> None:
    export(Session.load(), "s2t-local", SelectConfig(scorer_mode="coupled"), "vllm", tmp_path / "out")
    config = PairConfig(slm=str(tmp_path / "out"))
    assert Session.load(config).config.scorer == str(tmp_path / "out" / "scorer")
    assert Session.load(config).config.calibration == str(tmp_path / "out" / "calibration.json")
    assert Session.load(replace(config, scorer="mine")).config.scorer == "mine"


def test_the_command_says_where_and_how(tmp_path: Path, capsys) -> None:
    assert tuple(exporting.WRITERS) == command.FORMATS and command.TRAINED == exporting.TRAINED
    assert main(["export", "--format", "peft", "--out", str(tmp_path / "out")]) == 0
    assert "ids 19 to 34" in capsys.readouterr().out
    assert main(["export", "--format", "peft", "--out", str(tmp_path / "out"), "--json"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["export", "--method", "distill", "--format", "vllm", "--out", str(tmp_path / "d"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "distill"
    assert (tmp_path / "d" / "distill" / "adapter_config.json").is_file()
