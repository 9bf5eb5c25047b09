"""Items: nothing is skipped in silence, splits stay apart, test data is refused."""

from __future__ import annotations

import gzip
import json
from contextlib import suppress
from pathlib import Path

import pytest

from select_to_think.evaluation.items import (
    Item,
    assert_unseen,
    items_digest,
    load_items,
    load_pair_split,
    question_key,
    refuse_test,
)
from select_to_think.structures import S2TError

GOOD = {"id": "a", "question": "What is 2 + 2?", "answer": "4"}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_optional_fields_and_the_rest(tmp_path: Path) -> None:
    record = {**GOOD, "id": 7, "answer": 4.5, "domain": "sums", "subject": "algebra", "choices": ["x", 3]}
    (item,) = load_items(write(tmp_path / "d.jsonl", record))
    assert item == Item("7", GOOD["question"], "4.5", domain="sums", choices=("x", "3"), meta={"subject": "algebra"})


def test_gzip_byte_order_mark_and_no_final_newline(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))
    assert load_items(path)[0].answer == "4"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{broken", "line 2 is not valid JSON (key must be a string at column 2)"),
        ("", "line 2 is not valid JSON (it is empty)"),
        ("[1]", "line 2 is not a JSON object"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ({"id": "b", "question": "?"}, "line 2 has no field 'answer'"),
        ({"id": "b", "question": " ", "answer": "x"}, "line 2: question must be a text"),
        ({"id": "b", "question": "?", "answer": None}, "line 2: answer must be a text"),
        ({"id": "a", "question": "Why?", "answer": "x"}, "the id 'a' stands already in line 1"),
        ({**GOOD, "id": "b", "answer_type": "nmber"}, "line 2: answer_type must be one of"),
        ({**GOOD, "id": "b", "choices": "AB"}, "line 2: choices must be a list"),
    ],
)
def test_a_broken_line_is_named(line: object, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", GOOD, line)
    with pytest.raises(S2TError) as error:
        load_items(path)
    assert str(path) in str(error.value) and says in str(error.value) and "\n" not in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(S2TError, match="line 2"):
        load_items(path)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "folder", "d.jsonl", "d.jsonl.gz"])
def test_missing_empty_and_damaged_files(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "d.jsonl").write_text("")
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(S2TError, match=name):
        load_items(tmp_path / name)


def test_limit_counts_per_domain(tmp_path: Path) -> None:
    records = [{**GOOD, "id": str(n), "domain": "ab"[n % 2]} for n in range(10)]
    items = load_items(write(tmp_path / "d.jsonl", *records), limit_per_domain=2)
    assert [item.id for item in items] == ["0", "1", "2", "3"]


def test_pair_splits_are_items_and_disjoint() -> None:
    test = load_pair_split("test", limit_per_domain=40)
    train = load_pair_split("train", limit_per_domain=40)
    assert {item.split for item in test} == {"test"} and len({item.domain for item in test}) == 3
    assert_unseen(test, keys(train), names=("train", "test"))
    with pytest.raises(S2TError, match="tset"):
        load_pair_split("tset")


def item(question: str, id: str = "x", **more: object) -> Item:
    return Item(id, question, "a", **more)  # type: ignore[arg-type]


def keys(items: list[Item]) -> dict[str, str]:
    return {question_key(item): item.id for item in items}


def test_overlap_by_normalised_text_names_the_items() -> None:
    ours = [item("How many  apples, then?", "train-1"), item("Other", "train-2")]
    theirs = [item("how many apples then", "test-9")]
    with pytest.raises(S2TError, match="train-1 = test-9"):
        assert_unseen(theirs, keys(ours), names=("training", "test"))
    assert_unseen(theirs, keys(ours[1:]), names=("training", "test"))


@pytest.mark.parametrize(
    ("first", "second"),
    [("What is 3 + 5?", "What is 3 - 5?"), ("Is 1.5 more?", "Is 15 more?"), ("What is 3,5?", "What is 3.5?")],
)
def test_signs_that_carry_meaning_count(first: str, second: str) -> None:
    assert question_key(item(first)) != question_key(item(second))


def test_the_choices_are_part_of_a_question() -> None:
    first, second = item("Which is true?", choices=("a", "b")), item("Which is true?", choices=("a", "c"))
    assert question_key(first) != question_key(second)


@pytest.mark.parametrize("source", ["test.jsonl", "gsm8k_test.jsonl.gz", "data/my-TEST-set.jsonl"])
def test_a_file_named_test_is_refused(source: str) -> None:
    with pytest.raises(S2TError, match="refusing to collect from test data"):
        refuse_test([item("Why?")], purpose="collect from", source=source)


def test_a_split_named_test_is_refused_and_contests_are_not() -> None:
    refuse_test([item("Why?", split="train")], purpose="train on", source="tests/contest_latest.jsonl")
    with pytest.raises(S2TError, match="item x"):
        refuse_test([item("Why?", split="test")], purpose="train on")


def test_the_digest_tells_items_apart() -> None:
    assert items_digest([item("a"), item("b")]) != items_digest([item("b"), item("a")])
    assert items_digest([item("a")]) == items_digest([item("a", split="train")])
    told = [item("A", meta={"test": "1"}), item("A", meta={"test": "2"}), item("A"), item("a"), item("a?"), item("a\n")]
    assert len({items_digest([each]) for each in told}) == len(told), "as it is asked and graded, to the letter"


@pytest.mark.parametrize("tolerance", ["5%", "0.01,0.02", "inf", "nan", -0.1, True, [1]])
def test_a_tolerance_is_a_number(tolerance: object, tmp_path: Path) -> None:
    for record in ({**GOOD, "tolerance": tolerance}, {**GOOD, "meta": {"tolerance": tolerance}}):
        with pytest.raises(S2TError, match=r"line 1: the tolerance of item .* must be a number"):
            load_items(write(tmp_path / "d.jsonl", record))
    assert load_items(write(tmp_path / "d.jsonl", {**GOOD, "tolerance": "1e-2"}))[0].meta == {"tolerance": "1e-2"}


@pytest.mark.parametrize(
    ("answer_type", "right", "wrong"),
    [
        ("number", [72, "1,234", "$18", "1/4", "3.5 hours"], ["many", "She has 3 left.\n#### 72"]),
        ("choice", ["A", "b"], ["(B)", "B. green", "green", 1, "E"]),
        ("bool", ["yes", True, "False"], ["Y", "maybe", 1]),
        ("text", ["anything"], []),
    ],
)
def test_an_answer_that_nothing_could_match_is_refused(
    answer_type: str, right: list[object], wrong: list[object], tmp_path: Path
) -> None:
    base = {"id": "q", "question": "Q", "answer_type": answer_type}
    base |= {"choices": ["red", "green"]} if answer_type == "choice" else {}
    file = tmp_path / "items.jsonl"
    for answer in right:
        file.write_text(json.dumps(base | {"answer": answer}))
        assert len(load_items(file)) == 1
    for answer in wrong:
        file.write_text(json.dumps(base | {"answer": answer}))
        with pytest.raises(S2TError, match=f"line 1: under answer_type {answer_type} the answer is"):
            load_items(file)
        assert load_items(file, answered=False), "who asks for no answers is not told about them"


def test_every_damage_of_a_gzip_file_is_told(tmp_path: Path) -> None:
    whole, path = gzip.compress(json.dumps(GOOD).encode() * 3), tmp_path / "d.jsonl.gz"
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with suppress(S2TError):
            load_items(path)
