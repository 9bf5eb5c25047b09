"""lm-evaluation-harness with our model: a real run on local tasks, equal to `s2t eval` and to plain forwards."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from select_to_think.cli import app
from select_to_think.config import DecodeConfig, EvalSettings
from select_to_think.evaluation.items import Item, load_pair_split
from select_to_think.evaluation.results import read_records
from select_to_think.evaluation.runner import evaluate
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.session import Session
from select_to_think.structures import S2TError

pytest.importorskip("lm_eval", reason="these tests need the extra `lm-eval`")
if TYPE_CHECKING:
    from select_to_think.evaluation.harness import HarnessModel

METHOD = "s2t-local"
GENERATE = """
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<never>"], max_gen_toks: 128, do_sample: false}
filter_list:
  - name: answer
    filter:
      - {function: regex, regex_pattern: "The answer is (.+?)[.]", group_select: -1}
      - {function: take_first}
"""
CHOOSE = """
doc_to_choice: ["The answer is 7.", "The answer is Monday."]
doc_to_target: 0
"""


def write_task(folder: Path, name: str, output_type: str, metric: str, rest: str) -> None:
    """Write the task `name` over `items.jsonl` of the same folder."""
    text = f"""
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "items.jsonl"}}}}}
test_split: test
output_type: {output_type}
doc_to_text: "{{{{question}}}}"
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
{rest}"""
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return load_pair_split("test", limit_per_domain=4)


@pytest.fixture(scope="module")
def model() -> HarnessModel:
    from select_to_think.evaluation.harness import HarnessModel

    return HarnessModel(method=METHOD, batch_size=1, device="cuda:0", max_batch=8)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=entry) for entry in arguments]


@pytest.fixture(scope="module")
def tasks(items: list[Item], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks of the harness over the items."""
    folder = tmp_path_factory.mktemp("harness")
    lines = (json.dumps({"id": item.id, "question": item.question, "answer": item.answer}) + "\n" for item in items)
    (folder / "items.jsonl").write_text("".join(lines), encoding="utf-8")
    write_task(folder, "s2t_written", "generate_until", "exact_match", GENERATE)
    write_task(folder, "s2t_chosen", "multiple_choice", "acc", CHOOSE)
    return folder


@pytest.fixture(scope="module")
def harness_run(tasks: Path) -> tuple[Path, str]:
    """The output folder and the log of one run of the program over both tasks."""
    command = [sys.executable, "-m", "select_to_think", "lm-eval", "--model", "s2t"]
    command += ["--model_args", f"pair=demo,method={METHOD}", "--tasks", "s2t_written,s2t_chosen"]
    command += ["--include_path", str(tasks), "--apply_chat_template", "--log_samples"]
    offline = {"HF_HOME": str(tasks / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--output_path", str(tasks / "out")],
        env={**os.environ, **offline, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tasks / "out", done.stdout + done.stderr


def samples(out: Path, task: str) -> list[dict[str, Any]]:
    path = next(out.rglob(f"samples_{task}_*.jsonl"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_program_says_what_our_evaluation_says(harness_run: tuple[Path, str], items: list[Item]) -> None:
    out, _ = harness_run
    results = json.loads(next(out.rglob("results_*.json")).read_text(encoding="utf-8"))
    ours = evaluate(Session.load(), items, [METHOD], out=out / "ours").rows[-1]
    assert results["results"]["s2t_written"]["exact_match,answer"] == ours.accuracy
    lines = (out / "ours" / f"records-{METHOD}.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {record["id"]: record["text"] for record in map(json.loads, lines)}
    written = {sample["doc"]["id"]: sample["resps"][0][0] for sample in samples(out, "s2t_written")}
    assert written == texts
    usage = results["config"]["usage"]
    assert usage["answers"] == len(items) and usage["scored_texts"] == 2 * len(items)
    assert usage["counts"]["llm_tokens_processed"] == 0 and usage["counts"]["slm_forwards"] > ours.tokens
    assert results["config"]["method"] == METHOD


def test_what_it_cost_is_in_the_log(harness_run: tuple[Path, str], items: list[Item]) -> None:
    assert f"s2t usage: {len(items)} answers by {METHOD}" in harness_run[1]
    assert "LLM 0 tokens in 0 forwards" in harness_run[1]


def test_choices_are_scored_as_by_plain_forwards(harness_run: tuple[Path, str], model: HarnessModel) -> None:
    for sample in samples(harness_run[0], "s2t_chosen")[:3]:
        for request, (value, greedy) in zip(sample["arguments"].values(), sample["filtered_resps"], strict=True):
            context, text = request["arg_0"], request["arg_1"]
            # The harness counts blanks at the end of a context to the text that is scored.
            expected = plain_logprob(model, context.rstrip(), context + text)
            assert float(value) == pytest.approx(expected[0], abs=1e-3)
            assert str(greedy) == str(expected[1])


def plain_logprob(model: HarnessModel, context: str, whole: str) -> tuple[float, bool]:
    """Log-probability of what follows `context` in `whole`, and whether it is greedy, by one forward.

    Over the tokens that may be written: the reserved ones have no part in it.
    """
    import torch

    tokenizer, slm = model.tokenizer, model.session.slm.model
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    begin = len(tokenizer(context, add_special_tokens=False).input_ids)
    with torch.no_grad():
        logits = slm(torch.tensor([ids])).logits[0].float()
    logits[:, sorted(reserved_ids(model.session.slm))] = -math.inf
    logprobs = logits.log_softmax(-1)
    steps = range(max(begin, 1), len(ids))
    greedy = all(int(logprobs[at - 1].argmax()) == ids[at] for at in steps)
    return sum(float(logprobs[at - 1, ids[at]]) for at in steps), greedy


def test_stop_strings_and_lengths_are_honoured_request_by_request(model: HarnessModel, items: list[Item]) -> None:
    prompts = [model.apply_chat_template([{"role": "user", "content": item.question}]) for item in items[:4]]
    full = model.generate_until(requests(*((prompt, {"until": [], "max_gen_toks": 128}) for prompt in prompts)))
    answers = model.generate_until(
        requests(
            (prompts[0], {"until": ["="], "max_gen_toks": 128}),
            (prompts[1], {"until": "is", "max_gen_toks": 128}),
            (prompts[2], {"max_gen_toks": 5, "until": ["<never>"]}),
            (prompts[3], {"until": ["<never>", "answer"], "max_gen_toks": 128}),
        )
    )
    assert answers[0] == full[0].split("=")[0] and answers[1] == full[1].split("is")[0]
    assert full[2].startswith(answers[2]) and len(model.tok_encode(answers[2])) == 5
    assert answers[3] == full[3].split("answer")[0] != full[3]


def test_rolling_windows_cover_a_text_once(model: HarnessModel, items: list[Item]) -> None:
    short = items[0].question
    eos = model.tokenizer.eos_token
    assert model.loglikelihood_rolling(requests((short,)))[0] == pytest.approx(
        plain_logprob(model, eos, eos + short)[0], abs=1e-3
    )
    long = " ".join(item.question for item in items) * 3
    ids = model.tok_encode(long, add_special_tokens=False)
    assert len(ids) > model.session.room(with_llm=False)
    before = model.usage.scored_texts
    total = model.loglikelihood_rolling(requests((long,)))[0]
    assert math.isfinite(total) and total < 10 * plain_logprob(model, eos, eos + short)[0]
    assert model.usage.scored_texts - before == math.ceil(len(ids) / (model.session.room(with_llm=False) - 1))


def test_a_context_that_is_too_long_loses_its_beginning(model: HarnessModel, items: list[Item]) -> None:
    room = model.session.room(with_llm=False)
    question = items[0].question
    ids = model.tok_encode(question, add_special_tokens=False)
    text = model.tok_encode("The answer is 7.", add_special_tokens=False)
    long = ids * (room // len(ids) + 2)
    found = model._loglikelihood_tokens([(None, long, text), (None, long[-(room - len(text)) :], text)])
    assert found[0] == pytest.approx(found[1])


def test_a_prompt_that_fills_the_context_is_counted(model: HarnessModel, items: list[Item]) -> None:
    room, before = model.session.room(with_llm=False), model.usage.unanswered
    word = model.tokenizer.decode(model.tok_encode(items[0].question, add_special_tokens=False)[:1])
    assert model.generate_until(requests((f"{word} " * (room + 5), {"max_gen_toks": 4}))) == [""]
    assert model.usage.unanswered == before + 1


def test_repeated_requests_are_drawn_apart(items: list[Item]) -> None:
    from select_to_think.evaluation.harness import HarnessModel

    model = HarnessModel(method="sample", temperature=1.5, max_new_tokens=40)
    prompt = model.apply_chat_template([{"role": "user", "content": items[0].question}])
    settings = {"do_sample": True, "temperature": 1.5, "until": []}
    drawn = model.generate_until(requests(*[(prompt, settings)] * 4))
    assert len(set(drawn)) > 1
    assert drawn == model.generate_until(requests(*[(prompt, settings)] * 4))
    cold = model.generate_until(requests(*[(prompt, settings | {"temperature": 0.01})] * 3))
    assert len(set(cold)) == 1


def test_no_special_token_is_written_twice(model: HarnessModel, items: list[Item]) -> None:
    prompt = model.apply_chat_template([{"role": "user", "content": items[0].question}])
    assert model.tok_encode(prompt) == model.session.prompt(items[0].question, 1, with_llm=False)


@pytest.mark.parametrize("method", ["sample", "maj@3"])
def test_drawn_answers_are_those_of_our_evaluation(items: list[Item], tmp_path: Path, method: str) -> None:
    from select_to_think.evaluation.harness import HarnessModel

    decode = DecodeConfig(temperature=1.5, seed=3)
    evaluate(Session.load(), items, [method], EvalSettings(decode), out=tmp_path)
    records = read_records(tmp_path / f"records-{method}.jsonl")
    model = HarnessModel(method=method, temperature=1.5, seed=3)
    prompts = [model.apply_chat_template([{"role": "user", "content": item.question}]) for item in items]
    settings = {"until": [], "max_gen_toks": decode.max_new_tokens}
    assert model.generate_until(requests(*((prompt, settings) for prompt in prompts))) == [r.text for r in records]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methd": "s2t"}, "did you mean 'method'"),
        ({"trigger_budget": 2}, "trigger_budget must be between"),
        ({"method": "s2tlocal"}, "did you mean 's2t-local'"),
        ({"max_new_tokens": "many"}, "max_new_tokens must be a whole number, got 'many'"),
        ({"trigger_budget": True}, "trigger_budget must be a number, got True"),
        ({"block_verified": 1}, "block_verified must be of type bool, got 1"),
        ({"trigger": "kl"}, "kl"),
    ],
)
def test_mistakes_in_the_arguments_are_one_line(settings: dict[str, Any], words: str) -> None:
    from select_to_think.evaluation.harness import HarnessModel

    with pytest.raises(S2TError, match=words):
        HarnessModel(**settings)


def test_arguments_become_what_the_configurations_hold() -> None:
    from select_to_think.evaluation.harness import configurations

    pair, decode, select, _ = configurations({"slm": 12, "temperature": 1, "trigger": None, "block_verified": False})
    assert (pair.slm, decode.temperature, select.trigger, select.block_verified) == ("12", 1.0, None, False)


def test_the_batch_size_of_the_harness_counts_above_one() -> None:
    from select_to_think.evaluation.harness import HarnessModel

    default = DecodeConfig().max_batch
    for given, expected in ((1, default), ("auto", default), (None, default), (5, 5), ("6", 6)):
        assert HarnessModel(method="greedy", batch_size=given).decode.max_batch == expected


def test_a_missing_harness_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    assert app.main(("lm-eval", "--tasks", "x")) == 2
    assert (
        capfd.readouterr().err
        == "error: lm-eval is missing: in a checkout, pip install -c constraints.txt '.[lm-eval]'\n"
    )


@pytest.fixture
def program(tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """The program in this process, silent, knowing our two tasks only (the harness's own take seconds to read)."""
    import datasets
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return lambda flags: app.main(("lm-eval", "--model", "s2t", "--include_path", str(tasks), *flags.split()))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--tasks s2t_writen", "Tasks not found: s2t_writen; did you mean 's2t_written'?"),
        ("--tasks s2t_written,gsm9k", "Tasks not found: gsm9k; `s2t lm-eval ls tasks` lists"),
        ("--tasks nowhere/task.yaml", "nowhere/task.yaml; `s2t lm-eval ls tasks` lists"),
        ("--config nowhere.yaml", "Config file not found"),
        ("--tasks s2t_written --log_samples", "Specify --output_path"),
        ("--tasks s2t_written --model s3t", "no model for this name"),
        ("--tasks s2t_written --model_args methd=s2t", "did you mean 'method'?"),
    ],
)
def test_what_the_harness_refuses_is_one_line(
    program: Callable[[str], int], capfd: pytest.CaptureFixture[str], flags: str, words: str
) -> None:
    assert program(flags) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


def test_model_args_that_are_none_end_with_the_harness_s_line(
    program: Callable[[str], int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert program("--tasks s2t_written --model_args pair=demo,method") == 2
    assert capfd.readouterr().err.splitlines()[-1].endswith("expected `key=value`, got 'method'")


@pytest.mark.parametrize(
    ("place", "defect"),
    [
        ("session.Session.load", lambda *_: int("before the model is asked")),
        ("evaluation.harness.HarnessModel.job", lambda *_: int("while it is asked")),
        ("evaluation.harness.HarnessModel.generate_until", lambda *_, **__: [7]),  # the harness stumbles over it later
    ],
)
def test_defects_of_ours_keep_their_traceback(
    program: Callable[[str], int], monkeypatch: pytest.MonkeyPatch, place: str, defect: Callable[..., Any]
) -> None:
    monkeypatch.setattr(f"select_to_think.{place}", defect)
    with pytest.raises((ValueError, TypeError)):
        program("--tasks s2t_written --model_args method=greedy --apply_chat_template")
