"""Every loader on rows in the hub's schema, and, where the pack of real data is there, on its whole files."""

from __future__ import annotations

import gzip
import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from select_to_think.config import PromptStyle
from select_to_think.evaluation import benchmarks
from select_to_think.evaluation.benchmarks import base
from select_to_think.evaluation.grading import grade
from select_to_think.evaluation.items import assert_unseen, load_items, question_key
from select_to_think.structures import S2TError

PACK = Path(os.environ.get("S2T_BENCH_DATA", Path(__file__).parents[2] / "shared" / "data" / "bench"))
needs_pack = pytest.mark.skipif(not PACK.is_dir(), reason="the pack of benchmark data is not here (S2T_BENCH_DATA)")

ROWS = {
    "gsm8k": {"question": "2 and 3?", "answer": "It is <<2+3=5>>5.\n#### 1,005"},
    "math-500": {
        "problem": "$1+1$?", "solution": "", "answer": "2", "subject": "Algebra", "level": 1,
        "unique_id": "test/algebra/7.json",
    },
    "olympiadbench": {
        "id": 1606, "question": "Q", "final_answer": ["$\\frac{1}{2}$"], "answer_type": "Numerical", "unit": "cm",
        "is_multiple_answer": True, "error": "1e-1", "subfield": "Algebra",
    },
    "aime24": {"id": 60, "problem": "Q", "answer": "033", "year": "2024"},
    "aime25": {"id": "0", "problem": "Q", "answer": "336^\\circ"},
    "minerva-math": {"question": "Q", "answer": "\\pi"},
    "svamp": {"ID": "chal-9", "Body": "A story", "Question": "How many?", "Answer": "145.0", "Type": "Common-Divison"},
    "humaneval": {
        "task_id": "HumanEval/3", "prompt": "def f():\n", "canonical_solution": "    return 1\n", "entry_point": "f",
        "test": "def check(f):\n    assert f() == 1\n",
    },
    "mmlu-pro": {
        "question_id": 70, "question": "Q", "options": ["a", "b", "N/A"], "answer": "B", "category": "law", "src": "x",
    },
    "arc-challenge": {
        "id": "X1", "question": "Q", "choices": {"text": ["p", "q"], "label": ["1", "2"]}, "answerKey": "2",
    },
    "supergpqa": {
        "uuid": "u", "question": "Q", "options": ["a", "b"], "answer": "b", "answer_letter": "B",
        "discipline": "Law", "field": "f", "difficulty": "hard",
    },
    "commonsenseqa": {
        "id": "c", "question": "Q", "question_concept": "k",
        "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B",
    },
    "strategyqa": {"qid": "018cb-", "question": "Q?", "answer": False},
    "aqua": {"question": "Q", "options": ["A)21", "B) 21.5"], "correct": "B", "rationale": ""},
}  # fmt: skip
EXPECTED = {
    "gsm8k": ("gsm8k/test/0", "1005"),
    "math-500": ("math_500/test/algebra/7", "2"),
    "olympiadbench": ("olympiadbench/oe_to_maths_en/1606", "\\frac{1}{2}"),
    "aime24": ("aime24/test/60", "33"),
    "aime25": ("aime25/test/0", "336"),
    "minerva-math": ("minerva_math/test/0", "\\pi"),
    "svamp": ("svamp/test/chal-9", "145"),
    "humaneval": ("humaneval/test/3", "    return 1\n"),
    "mmlu-pro": ("mmlu_pro/test/70", "B"),
    "arc-challenge": ("arc_challenge/test/X1", "B"),
    "supergpqa": ("supergpqa/test/u", "B"),
    "commonsenseqa": ("commonsenseqa/dev/c", "B"),
    "strategyqa": ("strategyqa/dev/018cb-", "no"),
    "aqua": ("aqua/test/0", "B"),
}
COUNTS = {
    ("gsm8k", "test"): 1319, ("gsm8k", "train"): 7473, ("svamp", "test"): 1000, ("olympiadbench", "test"): 675,
    ("humaneval", "test"): 164, ("mmlu-pro", "test"): 1400, ("arc-challenge", "test"): 1172,
    ("arc-challenge", "dev"): 299, ("commonsenseqa", "dev"): 1221, ("strategyqa", "dev"): 229,
    ("strategyqa", "train"): 2061, ("aqua", "test"): 254,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(benchmarks.BENCHMARKS) - {"com2-hard"}))
def test_hub_row_and_local_record_are_the_same_item(name, tmp_path, monkeypatch):
    found = benchmarks.BENCHMARKS[name]
    calls = []
    monkeypatch.setattr(base, "hub_rows", lambda *arguments: calls.append(arguments) or [ROWS[name]])
    split = found.default_split
    (item,) = found.load()
    assert calls == [(found.hub, found.config, found.splits[split].hub, found.revision)]
    assert re.fullmatch("[0-9a-f]{40}", found.revision)
    assert (item.id, item.answer) == EXPECTED[name]
    assert (item.domain, item.split, item.answer_type) == (name, split, found.answer_type)
    fields = {key: value for key, value in asdict(item).items() if key not in ("prompt", "split")}
    (tmp_path / f"{found.splits[split].files[0]}.jsonl").write_text(json.dumps(fields) + "\n")
    assert found.load(data_dir=tmp_path) == [item]


def test_details_of_rows():
    (olympiad,) = benchmarks.BENCHMARKS["olympiadbench"].from_rows([ROWS["olympiadbench"]], "test")
    assert olympiad.meta == {
        "subject": "Algebra",
        "kind": "Numerical",
        "multiple": True,
        "unit": "cm",
        "tolerance": "1e-1",
    }
    (svamp,) = benchmarks.BENCHMARKS["svamp"].from_rows([ROWS["svamp"]], "test")
    assert svamp.question == "A story. How many?"
    assert svamp.meta == {"subject": "Common-Division"}
    (arc,) = benchmarks.BENCHMARKS["arc-challenge"].from_rows([ROWS["arc-challenge"]], "test")
    assert (arc.choices, arc.meta) == (("p", "q"), {"source_label": "2"})
    (pro,) = benchmarks.BENCHMARKS["mmlu-pro"].from_rows([ROWS["mmlu-pro"]], "test")
    assert pro.choices == ("a", "b")


def test_rows_of_another_form_are_an_error_that_names_the_row():
    with pytest.raises(S2TError, match="gsm8k, row 1"):
        benchmarks.BENCHMARKS["gsm8k"].from_rows([ROWS["gsm8k"], {"question": "?"}], "test")


def test_roles_keep_training_off_the_test_data(tmp_path):
    for name, split in (("gsm8k", "test"), ("commonsenseqa", "dev"), ("arc-challenge", "dev")):
        with pytest.raises(S2TError, match="evaluation only"):
            benchmarks.load(name, split, data_dir=tmp_path, learned=True)
    with pytest.raises(S2TError, match="no split 'train'"):
        benchmarks.load("svamp", data_dir=tmp_path, learned=True)
    for found in benchmarks.BENCHMARKS.values():
        assert found.splits[found.default_split].role == "test"
        assert all(part.role == "train" or name != "train" for name, part in found.splits.items())


def test_errors_name_the_remedy(tmp_path):
    with pytest.raises(S2TError, match="gsm8k"):
        benchmarks.load("gsm8", data_dir=tmp_path)
    with pytest.raises(S2TError, match=r"gsm8k_test\.jsonl"):
        benchmarks.load("gsm8k", data_dir=tmp_path)
    with pytest.raises(S2TError, match="--data-dir"):
        benchmarks.load("com2-hard")


def test_a_file_of_the_users_own(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"id": 1, "question": "Q", "answer": "5", "answer_type": "number"}\n')
    (item,) = benchmarks.load(str(path))
    assert (item.domain, item.answer, item.answer_type) == ("mine", "5", "number")
    assert "\\boxed" not in benchmarks.ask([item], PromptStyle())[0]
    assert benchmarks.ask([item], PromptStyle(template="{question} {x}"))[0] == "Q {x}"


def test_prompts(tmp_path):
    found = benchmarks.BENCHMARKS["arc-challenge"]
    (item,) = found.from_rows([ROWS["arc-challenge"]], "test")
    prompt = base.fill(found.prompt, item)
    assert "A. p\nB. q" in prompt
    assert prompt.rstrip(".").endswith("A, B")
    (gsm,) = benchmarks.BENCHMARKS["gsm8k"].from_rows([ROWS["gsm8k"]], "test")
    assert "\\boxed{}" in base.fill(benchmarks.BENCHMARKS["gsm8k"].prompt, gsm)


def test_examples_come_from_the_train_split(tmp_path):
    rows = [
        {"id": f"gsm8k/train/{i}", "question": f"Q{i}", "answer": str(i), "answer_type": "number"} for i in range(9)
    ]
    (tmp_path / "gsm8k_train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "gsm8k_test.jsonl").write_text('{"id": "t", "question": "T", "answer": "1", "answer_type": "number"}\n')
    items = benchmarks.load("gsm8k", data_dir=tmp_path)
    style = PromptStyle(shots=3, seed=1)
    (prompt,) = benchmarks.ask(items, style, data_dir=tmp_path)
    assert prompt.count("The answer is") == 3
    assert prompt.index("T\n\n") > prompt.rindex("The answer is")
    assert [prompt] == benchmarks.ask(items, style, data_dir=tmp_path)


@needs_pack
@pytest.mark.parametrize(("name", "split"), sorted(COUNTS))
def test_whole_files_of_the_pack(name, split):
    items = benchmarks.load(name, split, data_dir=PACK)
    assert len(items) == len({item.id for item in items}) == COUNTS[name, split]
    for item in items:
        assert item.answer_type == benchmarks.BENCHMARKS[name].answer_type
        if item.answer_type == "choice":
            assert item.choices and len(item.answer) == 1 and 0 <= ord(item.answer) - 65 < len(item.choices)
        elif item.answer_type == "bool":
            assert item.answer in ("yes", "no")
        elif item.answer_type == "number":
            float(item.answer)
        elif item.answer_type == "code":
            assert item.meta and item.meta["prompt"] == item.question and "def check(" in item.meta["test"]
    for item, prompt in zip(items, benchmarks.ask(items, PromptStyle()), strict=True):
        assert item.question in prompt and "{question}" not in prompt
        assert all(f"{chr(65 + i)}. {choice}" in prompt for i, choice in enumerate(item.choices or ()))


@needs_pack
@pytest.mark.parametrize(("name", "split"), sorted(COUNTS))
def test_the_gold_answers_of_the_pack_are_right(name, split):
    found = benchmarks.BENCHMARKS[name]
    if found.answer_type == "code":
        pytest.skip("run in the tests of the sandbox")

    def says(item, answer):
        text = f"\\boxed{{{answer}}}" if item.answer_type == "math" else found.solved(replace(item, answer=answer))
        return grade(text, item.answer, item.answer_type, choices=item.choices, meta=item.meta).right

    items = benchmarks.load(name, split, data_dir=PACK)
    assert [item.id for item in items if not says(item, item.answer)] == []
    if found.answer_type in ("choice", "bool"):
        others = {"yes": "no", "no": "yes"} | {letter: "B" if letter == "A" else "A" for letter in "ABCDEFGHIJ"}
        assert [item.id for item in items if says(item, others[item.answer])] == []


@needs_pack
def test_strategyqa_of_the_hub_is_divided_as_in_the_pack():
    splits = {split: benchmarks.load("strategyqa", split, data_dir=PACK) for split in ("dev", "train")}
    items = [item for split in splits.values() for item in split]
    rows = [
        {"qid": item.id.rsplit("/", 1)[1], "question": item.question, "answer": item.answer == "yes"} for item in items
    ]
    for split, expected in splits.items():
        found = benchmarks.BENCHMARKS["strategyqa"].from_rows(rows, split)
        assert [(item.id, item.question, item.answer) for item in found] == [
            (item.id, item.question, item.answer) for item in expected
        ]


@needs_pack
def test_train_and_test_of_the_pack_are_apart():
    for name, split in (("gsm8k", "test"), ("strategyqa", "dev")):
        train, test = benchmarks.load(name, data_dir=PACK, learned=True), benchmarks.load(name, split, data_dir=PACK)
        assert_unseen(test, {question_key(item): item.id for item in train}, names=("training", "test"))


@needs_pack
def test_every_file_of_the_pack_has_a_loader():
    known = {file for found in benchmarks.BENCHMARKS.values() for part in found.splits.values() for file in part.files}
    assert {path.name.removesuffix(".jsonl.gz") for path in PACK.glob("*.jsonl.gz")} <= known


@needs_pack
def test_ids_of_hub_rows_are_those_of_the_pack():
    for name, key in (("arc-challenge", "id"), ("commonsenseqa", "id"), ("strategyqa", "qid"), ("svamp", "ID")):
        found = benchmarks.BENCHMARKS[name]
        (path,) = (PACK / f"{file}.jsonl.gz" for file in found.splits[found.default_split].files)
        first = load_items(path)[0]
        row = ROWS[name] | {key: first.id.rsplit("/", 1)[1]}
        assert found.from_rows([row], found.default_split)[0].id == first.id
    with gzip.open(PACK / "mmlu_pro_1400.jsonl.gz", "rt") as lines:
        first = json.loads(next(lines))
    row = ROWS["mmlu-pro"] | {"question_id": int(first["id"].split("/")[2])}
    assert benchmarks.BENCHMARKS["mmlu-pro"].from_rows([row], "test")[0].id == first["id"]
