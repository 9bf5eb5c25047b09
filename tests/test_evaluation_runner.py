"""Running methods: rows, records, resuming, and what is refused before anything is decoded."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from statistics import stdev

import pytest

from fake_session import METHODS, SETTINGS, FakeSession, fake_items, work
from select_to_think import __version__
from select_to_think.config import DecodeConfig, EvalSettings, PriceConfig, PromptStyle, SelectConfig
from select_to_think.evaluation.grading import grade
from select_to_think.evaluation.items import Item, question_key
from select_to_think.evaluation.metrics import hit_rate, llm_tokens, summarise
from select_to_think.evaluation.results import ItemRecord, ResultRow, load_results, read_records
from select_to_think.evaluation.run_folder import Part
from select_to_think.evaluation.runner import Evaluation, SharedClock, answer, evaluate
from select_to_think.evaluation.trained_on import write_trained_on
from select_to_think.structures import Generation, S2TError

ITEMS = fake_items(20, split="test")
ROW = [
    "method", "domain", "n", "accuracy", "stderr", "tokens", "seconds", "tokens_per_second", "trigger_rate",
    "flip_rate", "hit_at_8", "llm_tokens_generated", "llm_tokens_processed", "llm_forwards",
    "truncated", "prompts_too_long", "slm_tokens_processed", "llm_tokens_share", "flops", "money", "seeds", "baseline",
    "paired", "llm_failures", "consultations", "disagreements", "mentor_choices", "mentor_tokens_rejected",
]  # fmt: skip


def test_rows_are_counted_from_the_answers() -> None:
    session = FakeSession()
    results = evaluate(session, ITEMS, METHODS, SETTINGS)
    assert [spec.name for spec in fields(ResultRow)] == ROW
    assert [(row.method, row.domain) for row in results.rows] == [
        (method, domain) for method in METHODS for domain in ("sums", "facts", "all")
    ]
    for row in results.rows:
        items = [item for item in ITEMS if row.domain in ("all", item.domain)]
        answers = [session.answer(item.question, row.method) for item in items]
        marks = [grade(a.text, item.answer, "text").right for a, item in zip(answers, items, strict=True)]
        steps = [step for answer in answers for step in answer.steps]
        fired = [step for step in steps if step.fired]
        p = sum(marks) / len(marks)
        assert (row.n, row.accuracy) == (len(items), pytest.approx(p))
        assert row.stderr == pytest.approx(math.sqrt(p * (1 - p) / (len(items) - 1)))
        assert row.tokens == len(steps) and row.tokens_per_second == pytest.approx(row.tokens / row.seconds)
        assert row.llm_forwards == sum(answer.counts.llm_forwards for answer in answers)
        if row.method == "s2t":
            assert row.trigger_rate == pytest.approx(len(fired) / len(steps))
            assert row.flip_rate == pytest.approx(sum(step.flip for step in fired) / len(fired))
            hits = [step.llm_top_token in step.candidates[:8] for step in fired]
            assert row.hit_at_8 == pytest.approx(sum(hits) / len(hits))
        else:
            assert row.trigger_rate is row.flip_rate is row.hit_at_8 is None


def test_hit_at_8_is_unknown_without_the_llm(tmp_path: Path) -> None:
    scorer = tmp_path / "scorer"
    scorer.mkdir()
    session = FakeSession(scorer=scorer)
    row = evaluate(session, ITEMS, ["s2t-local"], SETTINGS, out=tmp_path / "out").rows[-1]
    assert row.trigger_rate is not None and row.hit_at_8 is None


def test_a_scorer_is_recorded_by_its_own_mode_and_score(tmp_path: Path) -> None:
    (scorer := tmp_path / "scorer").mkdir()
    session = FakeSession(scorer=scorer)
    settings = replace(SETTINGS, select=SelectConfig(scorer_mode="proposer", score="anchored"))
    for out, methods in (("plain", ["s2t"]), ("out", ["s2t"]), ("out", ["s2t", "s2t-local"])):
        about = evaluate(session, ITEMS, methods, settings, out=tmp_path / out).provenance["config"]["select"]
        known = ("coupled", "bins") if "s2t-local" in methods else ("proposer", "anchored")
        assert (about["scorer_mode"], about["score"]) == known
    begun = json.loads((tmp_path / "out" / "run.json").read_text())["methods"]
    assert [begun["s2t-local"]["select"][name] for name in ("scorer_mode", "score")] == ["coupled", "bins"]
    assert begun["s2t"] == json.loads((tmp_path / "plain" / "run.json").read_text())["methods"]["s2t"]


def test_files_and_their_order(tmp_path: Path) -> None:
    results = evaluate(FakeSession(), ITEMS, METHODS, SETTINGS, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "records-greedy.jsonl", "records-maj@3.jsonl", "records-s2t.jsonl", "results.json", "run.json",
    ]  # fmt: skip
    assert load_results(tmp_path / "results.json") == results
    records = read_records(tmp_path / "records-s2t.jsonl")
    assert [record.id for record in records] == [item.id for item in ITEMS]
    for record, item in zip(records, ITEMS, strict=True):
        answer = FakeSession().answer(item.question, "s2t")
        assert (record.fired, record.flips) == (answer.fired_count, answer.flip_count)
        for step in record.steps:
            traced = answer.steps[step["index"]]
            assert (step["token"], step["greedy"]) == (traced.token, traced.greedy_token)
            assert [c["id"] for c in step["candidates"]] == list(traced.candidates)
            assert step["candidates"][0]["score"] is None  # -inf, which JSON lacks
            assert traced.candidates[step["choice"]] == traced.token
            assert record.text[step["start"] : step["end"]].strip() == step["text"] == f"w{traced.token}"
    voted = read_records(tmp_path / "records-maj@3.jsonl")[0]
    assert len(voted.votes) == 3


def test_seconds_add_up_to_the_time_of_decoding(tmp_path: Path) -> None:
    now = 0.0
    clock = SharedClock(lambda: now)
    clock.start(0)
    now = 2.0
    clock.start(1)
    now = 6.0
    first = clock.finish(0)
    now = 100.0  # grading and writing: not counted
    clock.resume()
    now = 101.0
    assert (first, clock.finish(1)) == (2 + 4 / 2, 4 / 2 + 1)


def test_a_stopped_run_goes_on_and_says_so(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if done == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(FakeSession(), ITEMS, METHODS, SETTINGS, out=tmp_path, progress=stop)
    assert calls == [(n, 60) for n in range(1, 28)]
    with pytest.raises(S2TError, match="not finished: give its `s2t eval` command again"):
        load_results(tmp_path / "results.json")
    session = FakeSession()
    calls.clear()
    evaluate(session, ITEMS, METHODS, SETTINGS, out=tmp_path, progress=lambda *call: calls.append(call))
    assert len(session.streamed) == 60 - 27
    assert calls == [(20, 60), *((n, 60) for n in range(27, 61))]  # what was there before is no measure of the speed


def test_more_methods_join_the_folder_later(tmp_path: Path) -> None:
    evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)
    results = evaluate(FakeSession(), ITEMS, ["sample"], SETTINGS, out=tmp_path)
    assert [row.method for row in results.rows if row.domain == "all"] == ["greedy", "sample"]
    assert results.provenance["config"]["methods"] == ["greedy", "sample"]
    limits, seeds = replace(SETTINGS.decode, max_new_tokens=9), replace(SETTINGS, seeds=[1])
    for session, settings, says in (
        (FakeSession(), replace(SETTINGS, decode=limits), "decode.max_new_tokens was "),
        (FakeSession(), seeds, "decode.seed was 0, is 1"),
        (FakeSession(fingerprint="other"), SETTINGS, "slm was 'slm', is 'other'"),
    ):
        with pytest.raises(S2TError, match=says):
            evaluate(session, ITEMS, ["maj@2"], settings, out=tmp_path)
    warmer = replace(SETTINGS, decode=replace(SETTINGS.decode, temperature=1.3))
    about = evaluate(FakeSession(), ITEMS, ["maj@2"], warmer, out=tmp_path).provenance  # greedy does not look at it
    assert about["config"]["decode"]["temperature"] == 1.3
    assert about["config"]["other settings"]["sample"] == {"temperature": SETTINGS.decode.temperature}
    assert "maj@2" not in about["config"]["other settings"]
    assert "other settings" not in results.provenance["config"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decode": replace(SETTINGS.decode, max_new_tokens=9)}, "max_new_tokens was "),
        ({"select": SelectConfig(trigger_budget=0.77)}, "is 0.77"),
        ({"session": FakeSession(fingerprint="other")}, "slm was 'slm', is 'other'"),
        ({"items": ITEMS[:-1]}, "holds the answers to other questions (20 there, 19 here)"),
    ],
)
def test_a_folder_of_another_run_is_refused(change: dict[str, object], says: str, tmp_path: Path) -> None:
    def run(session: object = FakeSession(), items: object = ITEMS, **settings: object) -> None:
        evaluate(session, items, ["greedy", "s2t"], replace(SETTINGS, **settings), out=tmp_path)  # type: ignore

    run()
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(S2TError) as error:
        run(**change)  # type: ignore[arg-type]
    assert says in str(error.value) and "another folder" in str(error.value)
    assert (tmp_path / "results.json").read_bytes() == before


def test_the_batch_size_and_the_trigger_do_not_stop_a_resume_that_they_cannot_change(tmp_path: Path) -> None:
    evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)
    other = EvalSettings(replace(SETTINGS.decode, max_batch=2), SelectConfig(trigger_budget=0.5))
    evaluate(FakeSession(), ITEMS, ["greedy"], other, out=tmp_path)


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)
    path = tmp_path / "records-greedy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "{}\n", *lines[4:]]))
    with pytest.raises(S2TError, match="line 4"):
        evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    with pytest.raises(S2TError, match="once each"):
        evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)


def test_calibration_items_are_not_tested_on() -> None:
    session = FakeSession()
    session.calibration = replace(session.calibration, item_ids=["cal-7"], question_keys=[question_key(ITEMS[4])])
    with pytest.raises(S2TError, match="cal-7 = i4"):
        evaluate(session, ITEMS, ["s2t"], SETTINGS)
    evaluate(session, ITEMS, ["greedy"], SETTINGS)
    evaluate(session, ITEMS, ["s2t"], replace(SETTINGS, select=SelectConfig(trigger="random")))
    session.calibration = replace(session.calibration, question_keys=[])
    with pytest.raises(S2TError, match="s2t calibrate"):
        evaluate(session, ITEMS, ["s2t"], SETTINGS)


@pytest.mark.parametrize(
    ("items", "methods", "says"),
    [
        ([], ["greedy"], "no items"),
        ([ITEMS[0], ITEMS[0]], ["greedy"], "stands twice"),
        (ITEMS, [], "no method"),
        (ITEMS, ["greedy", "s2t-locl"], "s2t-local"),
        ([Item("c", "def f", "", answer_type="code")], ["greedy"], "--allow-code-execution"),
    ],
)
def test_mistakes_are_found_before_decoding(items: list[Item], methods: list[str], says: str) -> None:
    session = FakeSession()
    with pytest.raises(S2TError, match=says):
        evaluate(session, items, methods, SETTINGS)
    assert not session.streamed


def test_provenance_says_where_numbers_come_from() -> None:
    session = FakeSession()
    session.notes = ["the SLM's text holds mistakes"]
    about = evaluate(session, ITEMS, ["greedy"], EvalSettings(DecodeConfig(seed=5)))
    found = json.loads(json.dumps(about.provenance))
    assert {"date", "versions", "git_hash", "dirty", "seeds", "device", "dtype", "platform", "config"} <= found.keys()
    assert found["seeds"] == [5] and found["device"] == "cpu" and found["dtype"] == "float32"
    assert found["config"]["decode"]["seed"] == 5 and found["versions"]["python"].count(".") == 2
    assert found["versions"]["select-to-think"] == __version__
    assert found["notes"] == ["the SLM's text holds mistakes"]


def test_the_same_command_twice_says_the_same(tmp_path: Path) -> None:
    first, again = work("evaluate", tmp_path), work("evaluate", tmp_path)
    assert first.rows == again.rows


def long_items() -> list[Item]:
    return [
        *ITEMS[:3],
        Item("long", "What is number " + "9" * 80 + "?", "red", domain="sums", meta={"subject": "nines"}),
    ]


def test_prompts_that_do_not_fit_are_wrong_and_counted(tmp_path: Path) -> None:
    row = evaluate(FakeSession(), long_items(), ["greedy"], SETTINGS, out=tmp_path).rows[-1]
    assert (row.n, row.prompts_too_long) == (4, 1)
    with pytest.raises(S2TError, match="lower --max-new-tokens"):  # nothing is left to be answered
        evaluate(FakeSession(), long_items()[-1:], ["greedy"], SETTINGS, out=tmp_path / "none")
    assert not (tmp_path / "none" / "records-greedy.jsonl").exists()
    record = read_records(tmp_path / "records-greedy.jsonl")[-1]
    assert (record.finish_reason, record.right, record.tokens, record.subject) == ("prompt_too_long", False, 0, "nines")
    assert record.prompt_tokens == len(long_items()[-1].question)
    session = FakeSession()
    evaluate(session, long_items(), ["greedy"], SETTINGS, out=tmp_path)
    assert not session.streamed


class CutOff(FakeSession):
    """A session whose answers all reach the token limit."""

    def answer(self, question: str, method: str, seed: int = 0) -> Generation:
        return replace(super().answer(question, method, seed), finish_reason="length")


def test_answers_that_the_token_limit_cut_off_are_wrong_whatever_they_say(tmp_path: Path) -> None:
    assert evaluate(FakeSession(), ITEMS, METHODS, SETTINGS).rows[-1].accuracy > 0
    for row in evaluate(CutOff(), ITEMS, METHODS, SETTINGS, out=tmp_path).rows:
        assert (row.accuracy, row.truncated) == (0, row.n)
    for record in read_records(tmp_path / f"records-{METHODS[0]}.jsonl"):
        assert (record.right, record.extracted, record.rule) == (False, None, "cut-off") and record.text


class Contradicting(FakeSession):
    """A session whose answers say the gold answer of no item first, then what they would have said."""

    def answer(self, question: str, method: str, seed: int = 0) -> Generation:
        said = super().answer(question, method, seed)
        return replace(said, text=f"The answer is nonsense. {said.text}")


def test_which_of_contradictory_statements_is_graded_is_a_setting_of_the_run(tmp_path: Path) -> None:
    first = replace(SETTINGS, contradictory="first")
    assert evaluate(Contradicting(), ITEMS, METHODS, SETTINGS, out=tmp_path).rows[-1].accuracy > 0
    assert evaluate(Contradicting(), ITEMS, METHODS, first).rows[-1].accuracy == 0
    with pytest.raises(S2TError, match="contradictory"):
        evaluate(Contradicting(), ITEMS, METHODS, first, out=tmp_path)


def test_prompts_are_asked_and_questions_are_kept(tmp_path: Path) -> None:
    asked = [replace(item, prompt=f"Q: {item.question}") for item in ITEMS]
    session = FakeSession()
    styled = replace(SETTINGS, style=PromptStyle(template="Q: {question}"))
    results = evaluate(session, asked, ["greedy"], styled, out=tmp_path)
    assert sorted(session.streamed) == sorted(item.prompt or "" for item in asked)
    assert [r.question for r in read_records(tmp_path / "records-greedy.jsonl")] == [i.question for i in ITEMS]
    assert results.provenance["config"]["prompt"]["template"] == "Q: {question}"
    with pytest.raises(S2TError, match=r"prompt\.template was 'Q: {question}', is '{question}'"):
        other = replace(SETTINGS, style=PromptStyle(template="{question}"))
        evaluate(FakeSession(), asked, ["greedy"], other, out=tmp_path)
    with pytest.raises(S2TError, match="answers to other questions"):
        evaluate(FakeSession(), ITEMS, ["greedy"], styled, out=tmp_path)


def test_several_seeds_are_one_row(tmp_path: Path) -> None:
    methods = ["greedy", "sample", "s2t"]
    results = evaluate(FakeSession(), ITEMS, methods, replace(SETTINGS, seeds=[4, 7, 4]), out=tmp_path)
    greedy, sample, s2t = (row for row in results.rows if row.domain == "all")
    assert [(row.seeds, row.n) for row in (greedy, sample, s2t)] == [(1, 20), (2, 40), (1, 20)]
    runs = [read_records(tmp_path / name) for name in ("records-sample.jsonl", "seed-7/records-sample.jsonl")]
    shares = [sum(record.right for record in run) / 20 for run in runs]
    assert sample.accuracy == pytest.approx(sum(shares) / 2)
    both = [(a.right + b.right) / 2 for a, b in zip(*runs, strict=True)]
    assert sample.stderr == pytest.approx(stdev(both) / math.sqrt(20))
    assert sample.tokens == sum(record.tokens for run in runs for record in run)
    assert sample.paired is not None and sample.paired.n == 20
    assert sample.paired.difference == pytest.approx(sample.accuracy - greedy.accuracy)
    assert results.provenance["seeds"] == [4, 7] and results.provenance["config"]["decode"]["seed"] == 4
    session = FakeSession()
    more = evaluate(session, ITEMS, ["sample"], replace(SETTINGS, seeds=[4, 7, 9]), out=tmp_path)
    assert len(session.streamed) == 20 and [row.seeds for row in more.rows if row.domain == "all"] == [1, 3, 1]
    with pytest.raises(S2TError, match=r"decode\.seed was 4, is 5"):
        evaluate(FakeSession(), ITEMS, ["sample"], replace(SETTINGS, seeds=[5]), out=tmp_path)


def test_rows_are_compared_with_the_baseline(tmp_path: Path) -> None:
    evaluate(FakeSession(), ITEMS, ["s2t"], SETTINGS, out=tmp_path)
    results = evaluate(FakeSession(), ITEMS, ["greedy"], SETTINGS, out=tmp_path)
    rows = {row.method: row for row in results.rows if row.domain == "all"}
    assert rows["greedy"].paired is rows["greedy"].baseline is None
    s2t = rows["s2t"]
    assert s2t.baseline == "greedy" and s2t.paired is not None and s2t.paired.mcnemar_p is not None
    assert s2t.paired.difference == pytest.approx(s2t.accuracy - rows["greedy"].accuracy)
    assert load_results(tmp_path / "results.json").rows[2] == s2t
    (row, *_) = evaluate(FakeSession(), ITEMS, ["s2t"], SETTINGS).rows
    assert row.paired is row.baseline is None


def test_a_baseline_without_answers_is_found_before_decoding(tmp_path: Path) -> None:
    session, against = FakeSession(), replace(SETTINGS, baseline="sample")
    for out in (None, tmp_path / "new"):
        with pytest.raises(
            S2TError, match=r"the baseline 'sample' is not evaluated: .* --methods, or take greedy or s2t$"
        ):
            evaluate(session, ITEMS, ["greedy", "s2t"], against, out=out)
    assert not session.streamed
    evaluate(session, ITEMS, ["sample"], SETTINGS, out=tmp_path)
    rows = evaluate(session, ITEMS, ["s2t"], against, out=tmp_path).rows
    assert [row.baseline for row in rows if row.domain == "all"] == [None, "sample"]


def one_record() -> ItemRecord:
    session = FakeSession()
    decisive = Evaluation(ITEMS[:1], ["s2t"], SETTINGS).decisive(session)  # type: ignore[arg-type]
    part, same = Part("s2t"), decisive["s2t"]
    (record,) = answer(session, ITEMS[:1], part=part, settings=SETTINGS, decisive=same)  # type: ignore
    return record


def test_tokens_that_the_llm_only_chose_are_its_own_once() -> None:
    record = one_record()
    chosen = [{"chooser": name} for name in ("llm", "slm", "llm")]
    for written, share in ((0, 2), (2, 2), (3, 3)):
        counts = replace(record.counts, llm_tokens_generated=written)
        assert llm_tokens(replace(record, steps=chosen, counts=counts)) == share


@pytest.mark.parametrize(
    ("looked_at", "token", "rate"), [(8, 7, 1), (9, 8, 0), (3, 2, 1), (3, 3, None), (8, None, None)]
)
def test_too_few_candidates_tell_a_hit_but_no_miss(looked_at: int, token: int | None, rate: int | None) -> None:
    step = {"llm_top": token, "candidates": [{"id": i} for i in range(looked_at)]}
    assert hit_rate([replace(one_record(), steps=[step])]) == rate


def test_who_would_answer_otherwise_than_was_said_decodes_nothing() -> None:
    session = FakeSession()
    decisive = Evaluation(ITEMS[:1], ["s2t"], SETTINGS).decisive(session)["s2t"]  # type: ignore[arg-type]
    other = {**decisive, "threshold": "another"}
    with pytest.raises(S2TError, match=r"do not hold the same \(threshold differ\)"):
        next(answer(session, ITEMS[:1], part=Part("s2t"), settings=SETTINGS, decisive=other))  # type: ignore


def test_what_a_kill_left_beside_whole_records_goes(tmp_path: Path) -> None:
    evaluate(FakeSession(), ITEMS[:1], ["greedy"], SETTINGS, out=tmp_path)
    (whole,) = tmp_path.rglob("*.jsonl")
    left = whole.with_name(whole.name + ".part")
    left.write_bytes(whole.read_bytes())
    evaluate(FakeSession(), ITEMS[:1], ["greedy"], SETTINGS, out=tmp_path)
    assert whole.exists() and not left.exists()


def test_a_method_without_a_trigger_has_no_rates_of_triggered_steps() -> None:
    """The mentor's disputes are steps that fired, though nothing triggered them."""
    record = replace(one_record(), fired=2, flips=1)
    for method, rates in (("s2t", (2 / record.tokens, 0.5)), ("mentor-mlp", (None, None))):
        row = summarise(method, [[replace(record, method=method)]])[-1]
        assert (row.trigger_rate, row.flip_rate) == rates


def test_costs_are_counted() -> None:
    session = FakeSession()
    prices = PriceConfig(price_slm=1.0, price_llm_written=2.0)
    row = evaluate(session, ITEMS, ["s2t"], replace(SETTINGS, prices=prices)).rows[-1]
    counts = [session.answer(item.question, "s2t").counts for item in ITEMS]
    processed, written = sum(c.slm_tokens_processed for c in counts), sum(c.llm_tokens_generated for c in counts)
    assert row.slm_tokens_processed == processed and row.money == pytest.approx((processed + 2 * written) / 1e6)
    assert row.llm_tokens_share == pytest.approx(written / row.tokens) and row.truncated == 0
    assert row.flops is not None and row.flops > 2 * 200 * processed  # the head and more
    session.llm.model.config = {}
    assert evaluate(session, ITEMS, ["s2t"], SETTINGS).rows[-1].flops is None


def test_questions_of_the_training_are_not_tested(tmp_path: Path) -> None:
    session = FakeSession(scorer=tmp_path)
    notes = evaluate(session, ITEMS, ["s2t-local", "greedy"], SETTINGS).provenance["notes"]
    assert len(notes) == 1 and "does not say which questions" in notes[0]
    write_trained_on(tmp_path, [question_key(ITEMS[3]), "0" * 64])
    with pytest.raises(S2TError, match=r"trained on 1 of the test questions \(i3\)"):
        evaluate(session, ITEMS, ["s2t-local"], SETTINGS)
    evaluate(session, ITEMS, ["greedy"], SETTINGS)
    assert not evaluate(session, ITEMS[:3], ["s2t-local"], SETTINGS).provenance["notes"]
    (tmp_path / "trained_on.json").write_text("{}")
    with pytest.raises(S2TError, match="train it again"):
        evaluate(session, ITEMS, ["s2t-local"], SETTINGS)


def test_mentor_rows_count_consultations_and_say_that_the_mentor_failed() -> None:
    results = evaluate(FakeSession(), ITEMS, ["greedy", "mentor-coin"], SETTINGS)
    rows = {row.method: row for row in results.rows if row.domain == "all"}
    assert rows["greedy"].consultations is rows["greedy"].llm_failures is None
    assert (rows["mentor-coin"].consultations, rows["mentor-coin"].llm_failures) == (4 * len(ITEMS), len(ITEMS))
    assert any("mentor-coin: the LLM was not reached 20 times" in note for note in results.provenance["notes"])
    assert results.provenance["config"]["mentor"]["consult_rate"] == 0.25
