"""The graders on labelled tables, on texts that nobody labelled, and on texts made to hurt."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grading_tables import lines, text_of
from select_to_think.evaluation.grading import FAMILIES, extract, grade, latex, maths, maths_process, number, vote
from select_to_think.structures import S2TError

SECONDS_FOR_HOSTILE_TEXT = 5.0  # processor time of this process; a third of a second on an idle machine
BUSY = 45  # what is limited is processor time; this only tells a hang, on a machine that others use too


def agreement(outcomes):
    """Share of cases that came out as labelled, and the ones that did not."""
    wrong = [case for case, good in outcomes if not good]
    return 1 - len(wrong) / len(outcomes), wrong


def test_numbers_agree_with_their_labels():
    outcomes = []
    for line in lines("number_cases.tsv"):
        gold, label, text = line.split("\t", 2)
        outcomes.append((line, grade(text_of(text), gold, "number").right == (label == "1")))
    share, wrong = agreement(outcomes)
    assert len(outcomes) > 200 and share >= 0.995, wrong


def test_letters_agree_with_their_labels():
    choices, outcomes = {}, []
    for line in lines("choice_cases.tsv"):
        if line.startswith("#! "):
            name, _, texts = line[3:].partition("\t")
            choices[name] = [text for text in texts.split("|") if text]
            continue
        name, label, text = line.split("\t", 2)
        found = extract(text_of(text), "choice", choices=choices[name]).extracted
        outcomes.append((line, (found or "-") == label))
    share, wrong = agreement(outcomes)
    assert len(outcomes) > 350 and share >= 0.99, wrong


def test_booleans_agree_with_their_labels():
    outcomes = []
    for line in lines("boolean_cases.tsv"):
        label, text = line.split("\t", 1)
        outcomes.append((line, (extract(text_of(text), "bool").extracted or "-") == label))
    share, wrong = agreement(outcomes)
    assert len(outcomes) > 90 and share >= 0.99, wrong


def test_latex_agrees_with_its_labels():
    pytest.importorskip("math_verify")
    outcomes, false_right = [], []
    for line in lines("latex_cases.tsv"):
        gold, answer, label = line.split("\t")
        right = grade(f"So we get $\\boxed{{{answer}}}$.", gold, "math").right
        outcomes.append((line, right == (label == "1")))
        if right and label == "0":
            false_right.append(line)
    share, wrong = agreement(outcomes)
    assert len(outcomes) > 450 and share >= 0.97, wrong
    assert not false_right


def test_the_phrasing_of_a_formula_does_not_matter():
    for line in lines("latex_cases.tsv"):
        _, answer, _ = line.split("\t")
        if "boxed" in answer or "fbox" in answer:
            continue
        boxed = extract(f"So we get $\\boxed{{{answer}}}$.", "math").extracted
        assert extract(f"The final answer is\n\\[\\boxed{{{answer}}}\\]", "math").extracted == boxed
        if "$" not in answer:
            assert extract(f"The final answer is ${answer}$. I hope it is correct.", "math").extracted == boxed, answer


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The answer is Red.", "red", True),
        ("The answer is blue. The answer is red.", "red", True),
        ("The answer is blue. The answer is red.", "blue", False),
        ("The answer is 5 .", "5", True),
        ("The answer is -5.", "5", False),
        ("The answer is 3.5.", "35", False),
        ("The answer is 1,200.", "1200", True),
        ("The answer is 18.0", "18", True),
        ('The answer is "the dog".', "The dog", True),
        ("3 , 5 and 7. The answer is 3, 5, 7.", "3 5 7", True),
        ("The answer is 12 4.", "1 24", False),
        ("so red", "red", False),
        ("", "red", False),
        ("The final answer is: $\\boxed{18}$.", "18", True),
        ("Therefore, the answer is \\boxed{\\text{New Delhi}}.", "new delhi", True),
        ("\\[ \\boxed{\\text{Paris}} \\]", "Paris", True),
        ("The answer is $\\boxed{18}$.", "19", False),
    ],
)
def test_free_text(text, answer, right):
    assert grade(text, answer, "text").right is right


def test_verdicts_carry_answer_and_rule():
    verdict = grade("So \\boxed{$1,234.50}", "1234.5", "number")
    assert (verdict.right, verdict.extracted, verdict.rule) == (True, "1234.5", "number:boxed:same-number")
    assert grade("nothing", "5", "number") == grade("", "5", "number")
    assert grade("nothing", "5", "number").rule == "number:none"


def test_equal_answers_are_equal_votes():
    for texts in (
        ("The answer is 18.0", "#### 18", "\\boxed{18.}", "it is $18"),
        ("The answer is 1/4", "\\boxed{0.25}"),
    ):
        assert len({extract(text, "number").extracted for text in texts}) == 1
    assert {extract(text, "choice").extracted for text in ("The answer is (b).", "**B**", "\\boxed{B}")} == {"B"}
    assert {extract(text, "bool").extracted for text in ("False", "The answer is no.", "\\boxed{\\text{No}}")} == {"no"}


@pytest.mark.parametrize(
    "answers",
    [("1,234", "1234", "1234.0", "01234", "$1234$"), ("Paris", "paris", "**Paris**"), ("(B)", "B"), ("3.50", "3.5")],
)
def test_answers_that_grade_as_equal_are_one_vote(answers):
    texts = [f"The answer is {answer}." for answer in answers]
    assert len({vote(text, "text") for text in texts}) == 1
    assert all(grade(text, answers[0], "text").right for text in texts)
    apart = ("-5", "5", "x+1", "x-1", "x 1", "C", "C++", "C#", "<", ">", "p\u2227q", "p\u2228q", "5%", "\u221a5")
    assert len({vote(f"The answer is {answer}", "text") for answer in apart}) == len(apart)
    assert vote("Nothing is\nsaid.", "text") is None


def test_unknown_types_name_the_known_ones():
    with pytest.raises(S2TError, match="number"):
        grade("5", "5", "integer")


def test_tolerance_of_an_item():
    assert grade("\\boxed{4.25}", "4.2", "math", meta={"tolerance": "1e-1"}).right
    assert not grade("\\boxed{4.4}", "4.2", "math", meta={"tolerance": "1e-1"}).right
    assert not grade("\\boxed{4.25}", "4.2", "math").right


def test_several_boxes_are_one_list_only_where_they_stand_together():
    assert grade("$x = \\boxed{1}$ or $x = \\boxed{2}$.", "1,2", "math").right
    assert grade("First \\boxed{1}. In the end we get \\boxed{2}.", "2", "math").right


def test_spelling_of_numbers():
    from fractions import Fraction

    for value, text in (
        (Fraction(5, 2), "2.5"),
        (Fraction(1, 3), "1/3"),
        (Fraction(-1, 8), "-0.125"),
        (Fraction(7), "7"),
    ):
        assert number.spell(value) == text


@settings(max_examples=100, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_any_number_grades_right_against_itself_and_wrong_against_its_neighbour(value):
    for text in (f"The answer is {value:,}.", f"#### {value}", f"\\boxed{{{value}}}"):
        assert grade(text, str(value), "number").right
        assert not grade(text, str(value + 1), "number").right


NASTY = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(
            ["\\boxed{", "}", "{", "$", "####", "The answer is ", "answer:", "(A)", "not ", "A", " or B", "\\frac", "^",
             "_", "1,0", "-", "/", "%", "e9999", "10^999", "\\sqrt", "\n", "**", "```python\n", "def f", "yes", "no",
             "</think>", "\\left(", "[", ")", "\\begin{pmatrix}", "&", "\\\\", "\ud800", "\x00", "\u221e", "=", "<<",
             ">>"]
        ),
        max_size=40,
    ).map("".join),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NASTY, NASTY)
@example("\\boxed{1/0}", "1/0")
@example("10^999e9999", "1e999")
def test_no_text_makes_a_rule_raise(text, answer):
    for answer_type, family in FAMILIES.items():
        found = extract(text, answer_type, choices=["one", "two", text[:20]], meta={"entry_point": "f"})
        assert found.extracted is None or isinstance(found.extracted, str)
        if answer_type not in ("code", "math") and found.extracted is not None:
            assert grade(text, answer, answer_type, choices=["one", "two"]).right in (True, False)
        assert family.extract is not None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NASTY, NASTY)
def test_no_formula_makes_the_shapes_raise(ours, gold):
    for text in (ours, gold):
        kind, parts = latex.shape(latex.normalise(text))
        assert parts or kind != "scalar"
        assert isinstance(latex.both_signs(text), str)


@settings(max_examples=15, deadline=None)
@given(NASTY, NASTY)
def test_no_formula_makes_math_verify_raise(ours, gold):
    pytest.importorskip("math_verify")
    assert grade(f"The answer is ${ours}$", gold, "math").right in (True, False)


HOSTILE = [
    "(" * 100_000, "{" * 100_000, "[" * 50_000 + "]" * 50_000, "\\boxed{" * 14_000, "\\boxed{" * 7_000 + "}" * 7_000,
    "\\frac{" * 16_000, "$" * 100_000, "1," * 50_000, "1 " * 50_000, "9" * 100_000, "-" * 100_000, "**" * 50_000,
    "answer " * 14_000, "answer is not " * 7_000, "the answer is " * 7_000, "####" * 25_000, "A or " * 20_000,
    "(A) " * 25_000, "option A is " * 8_000, "A is correct " * 8_000, "not A " * 16_000, " " * 100_000, "\n" * 100_000,
    "one hundred and " * 6_000, "Question: " * 10_000, "<think>" * 14_000, "</think>" * 12_000, "yes or no " * 10_000,
    "```python\n" * 10_000, "def f():\n" * 11_000, "1/" * 50_000, "10^" * 33_000, "x=" * 50_000, "a_{" * 33_000,
    "\\left(" * 16_000, "\\sqrt" * 20_000, "\\text{" * 16_000, "and " * 25_000, "1.1." * 25_000, "|" * 100_000,
    "I choose " * 11_000, "rather than A " * 7_000, "\\begin{pmatrix}" * 6_000, "<<" * 50_000, "is is " * 16_000,
]  # fmt: skip


@pytest.mark.parametrize("answer_type", sorted(FAMILIES))
def test_long_hostile_texts_are_graded_within_seconds(answer_type):
    if answer_type == "math":
        pytest.importorskip("math_verify")
    for text in (each[:50_000] for each in HOSTILE):
        started = time.process_time()
        for whole in (text, "\\boxed{" + text + "}", "The answer is " + text):
            if answer_type == "code":
                extract(whole, answer_type, meta={"entry_point": "f"})
            else:
                grade(whole, "5", answer_type, choices=["one", "two"])
        assert time.process_time() - started < SECONDS_FOR_HOSTILE_TEXT, (text[:20], answer_type)


EXPENSIVE = (
    "(100+10^9)!", "9^{9^{9^{9}}}", "\\sum_{k=1}^{10^{12}} \\frac{1}{k^2+1}", "(x+1)^{9999}", "\\binom{10^8}{10^7}",
    "((((" * 9 + "x" + "+1)^{99})" * 18,
)  # fmt: skip


@pytest.mark.parametrize("formula", EXPENSIVE)
@pytest.mark.parametrize("count", [1, 10])
def test_one_deadline_bounds_a_verdict_whatever_its_parts(formula, count):
    pytest.importorskip("math_verify")
    assert grade("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", "math").right  # the server is there
    ours = ", ".join(f"{formula}+{part}" for part in range(count))
    gold = ", ".join(f"\\sqrt{{{part + 2}}}+y" for part in range(count))
    started = time.monotonic()
    assert not grade(f"$\\boxed{{{ours}}}$", gold, "math").right
    assert maths_process.LIMIT_CPU_SECONDS < 2
    assert time.monotonic() - started < BUSY * maths_process.LIMIT_CPU_SECONDS


def test_mathematics_is_graded_in_any_thread():
    pytest.importorskip("math_verify")
    verdicts = []
    threads = [
        threading.Thread(
            target=lambda n=n: verdicts.append(grade(f"\\boxed{{\\sqrt{{{n * n * 3}}}}}", f"{n}\\sqrt{{3}}", "math"))
        )
        for n in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [verdict.right for verdict in verdicts] == [True] * 4


def test_a_server_that_dies_is_replaced():
    pytest.importorskip("math_verify")
    assert grade("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", "math").right
    maths_process._server.kill()
    maths_process._server.wait()
    assert grade("\\boxed{\\sqrt{18}}", "3\\sqrt{2}", "math").right


def test_too_long_formulas_are_rejected_with_a_rule():
    verdict = grade("\\boxed{" + "x+" * 900 + "x}", "901x", "math")
    assert (verdict.right, verdict.rule) == (False, "math:boxed:too-long")
    assert len(verdict.extracted) <= maths.MAX_LENGTH + 1
