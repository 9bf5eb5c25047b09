"""The graders on generated answers: each kind of rewriting keeps or changes the verdict, whatever the answer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from select_to_think.evaluation.grading import extract, grade

REPEATABLE = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)

NATURAL = st.integers(2, 999)
FRACTION = st.builds(lambda top, below: f"\\frac{{{top}}}{{{below}}}", st.integers(1, 99), st.integers(2, 99))
ROOT = st.builds(lambda factor, square: f"{factor}\\sqrt{{{square}}}", NATURAL, st.sampled_from([2, 3, 5, 7, 11]))
LETTER = st.sampled_from("abcdkmnpqrstuvwxyz")
NUMERICAL = st.one_of(NATURAL.map(str), FRACTION, ROOT, NATURAL.map("{}\\pi".format))
EXPRESSION = st.builds(
    lambda form, letter, number: form.replace("n", letter).replace("7", str(number)),
    st.sampled_from(["n^2+7", "7n-1", "\\frac{n}{7}", "\\frac{n(n+7)}{2}", "2^{n}-7", "\\lfloor\\frac{n}{7}\\rfloor"]),
    LETTER,
    NATURAL,
)
TUPLE = st.lists(NATURAL, min_size=2, max_size=4).map(lambda parts: f"({','.join(map(str, parts))})")
SEVERAL = st.lists(NUMERICAL, min_size=2, max_size=4, unique=True)
WORD = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9)


def boxed(answer):
    return f"So the answer is $\\boxed{{{answer}}}$."


def right(answer, gold, **meta):
    pytest.importorskip("math_verify")
    return grade(boxed(answer), gold, "math", meta=meta).right


@REPEATABLE
@given(NUMERICAL, WORD, st.sampled_from(["{}\\text{{ {}}}", "{} \\text{{ {}}}", "{} {}", "{}\\ \\mathrm{{{}}}"]))
def test_any_word_behind_a_number_is_a_unit(number, word, form):
    assume(word not in ("more", "less", "thousand", "million", "billion", "mod", "times", "dozen"))
    assert right(form.format(number, word), number)
    assert right(number, form.format(number, word))
    assert not right(form.format(f"1+{number}", word), number)


@REPEATABLE
@given(NUMERICAL, st.sampled_from(["or more", "or less", "at least", "if n is even", "more than n", "plus n"]))
def test_words_that_change_a_number_are_no_unit(number, words):
    assert not right(f"{number} \\text{{ {words}}}", number)


@REPEATABLE
@given(TUPLE)
def test_a_tuple_is_never_its_digits_run_together(pair):
    assert right(pair, pair.replace(",", ", "))
    assert not right(pair, "".join(filter(str.isdigit, pair)))
    assert not right("".join(filter(str.isdigit, pair)), pair)


@REPEATABLE
@given(EXPRESSION)
def test_case_counts_in_formulas(expression):
    changed = "".join(c.swapcase() if c.isalpha() and len(c) == 1 else c for c in expression.replace("frac", "\0"))
    changed = changed.replace("\0", "frac").replace("LFLOOR", "lfloor").replace("RFLOOR", "rfloor")
    assert right(expression, expression)
    assert not right(changed, expression)


@settings(REPEATABLE, max_examples=8)  # each asks math-verify three times, a third of a second each
@given(LETTER, WORD, WORD)
def test_subscripts_count(letter, one, other):
    assume(one != other)
    for form in ("{}_{{{}}}", "{}_{{\\text{{{}}}}}", "2{}_{{\\mathrm{{{}}}}}+1"):
        assert right(form.format(letter, one), form.format(letter, one))
        assert not right(form.format(letter, other), form.format(letter, one))
    assert not right(f"{letter}_{{\\text{{m}}}}", f"{letter}_{{\\text{{s}}}}")


@REPEATABLE
@given(
    SEVERAL, st.sampled_from([" and ", " \\text{ and } ", ", ", " or ", "$ and $", " \\quad \\text{and} \\quad ", ""])
)
def test_boxes_side_by_side_are_one_list(parts, joint):
    pytest.importorskip("math_verify")
    gold = ",".join(reversed(parts))
    several = joint.join(f"\\boxed{{{part}}}" for part in parts)
    assert grade(f"${several}$", gold, "math", meta={"multiple": True}).right
    assert not grade(f"${several}$", parts[-1], "math").right
    assert grade(f"First $\\boxed{{{parts[0]}}}$. In the end $\\boxed{{{parts[1]}}}$.", parts[1], "math").right


@REPEATABLE
@given(SEVERAL, st.randoms(use_true_random=False))
def test_lists_count_without_order_and_wholly(parts, random):
    mixed = random.sample(parts, len(parts))
    gold = ",".join(parts)
    for form in (", ".join(mixed), f"\\{{{', '.join(mixed)}\\}}", " \\text{ or } ".join(f"x={p}" for p in mixed)):
        assert right(form, gold, multiple=True)
    assert not right(", ".join(mixed[:-1]), gold, multiple=True)
    assert not right(", ".join([*mixed, "x+971"]), gold, multiple=True)


@REPEATABLE
@given(st.one_of(NUMERICAL, EXPRESSION), st.sampled_from([r"\dfrac", r"\tfrac"]))
def test_equivalent_spellings_are_right_and_a_step_beside_is_wrong(gold, fraction):
    for form in (
        gold.replace(r"\frac", fraction),
        f"\\frac{{2\\cdot({gold})}}{{2}}",
        f"1+{gold}-1",
        f"A = {gold}",
        gold + ".",
    ):
        assert right(form, gold)
    for form in (f"{gold}+1", f"\\frac{{{gold}}}{{3}}", f"-({gold})", f"{gold}, 5"):
        assert not right(form, gold)


@REPEATABLE
@given(st.lists(NUMERICAL, min_size=1, max_size=3, unique=True), st.sampled_from(["0.05", "1e-1", 0.2]))
def test_a_tolerance_holds_for_every_part(parts, tolerance):
    slack = float(tolerance)
    for form in ("{}", "({})") if len(parts) > 1 else ("{}",):
        gold = form.format(", ".join(parts))
        for shift, label in ((0.9 * slack, True), (1.1 * slack, False)):
            moved = form.format(", ".join([f"{parts[0]}+{shift:.4f}", *parts[1:]]))
            assert right(moved, gold, tolerance=tolerance, multiple=True) is label, (moved, gold)


SENTENCES = (
    "There are {} ways.", "The largest $n$ is {}.", "So the volume of $ABCD$ is {}.", "He can do it in {} ways.",
    "Final Answer: Jane had {} red marbles left",
)  # fmt: skip


@REPEATABLE
@given(NATURAL, st.sampled_from(SENTENCES))
def test_a_sentence_says_its_number(number, sentence):
    for answer_type in ("math", "number"):
        assert grade(sentence.format(number), str(number), answer_type).right
        assert not grade(sentence.format(number), str(number + 1), answer_type).right


@REPEATABLE
@given(NATURAL, st.sampled_from(["<=", ">=", "<", ">", "\\leq", "\\geq", "\\ge", "!=", "\\neq"]))
def test_a_bound_is_not_its_number(number, relation):
    for answer_type in ("math", "number"):
        assert not grade(f"So we have $x {relation} {number}$", str(number), answer_type).right


@REPEATABLE
@given(NATURAL, NATURAL, st.sampled_from(["{} or {}", "{}, {}", "{} and {}", "{}, or {}", "{}; {}"]))
def test_two_numbers_are_no_number(one, other, form):
    assume(one != other and f"{one},{other}" != f"{one:,}")
    said = form.format(one, other)
    for text in (f"The answer is {said}.", f"\\boxed{{{said}}}", f"#### {said}", f"So **{said}**", f"Answer: ${said}$"):
        assert not grade(text, str(one), "number").right and not grade(text, str(other), "number").right
    assert not grade(f"So $\\boxed{{{one}}}$ or $\\boxed{{{other}}}$.", str(other), "number").right


@REPEATABLE
@given(st.integers(1, 50))
def test_one_number_in_two_spellings_is_a_number(number):
    for text in (f"The answer is {number} or {number}.0.", f"\\boxed{{{number / 4}}} or \\boxed{{{number}/4}}"):
        value = f"{number}/4" if "4}" in text else str(number)
        assert grade(text, value, "number").right


@REPEATABLE
@given(
    NATURAL, NATURAL, st.sampled_from(["{}\\sqrt{{{}}}", "{}\\sqrt{}", "\\frac{{{}\\sqrt{{{}}}}}{{7}}", "{}+{}\\pi"])
)
def test_a_number_in_an_expression_is_not_the_answer(factor, inside, form):
    expression = form.format(factor, inside)
    for text in (f"\\boxed{{{expression}}}", f"The answer is ${expression}$.", f"so we get ${expression}$"):
        for number in (factor, inside, 7):
            assert not grade(text, str(number), "number").right, text


@REPEATABLE
@given(NATURAL, NATURAL, st.sampled_from("+-*"))
def test_arithmetic_in_a_box_is_worked_out(one, other, sign):
    value = {"+": one + other, "-": one - other, "*": one * other}[sign]
    assume(value not in (one, other))
    for answer_type in ("number", "math"):
        assert right_in_box(f"{one}{sign}{other}", value, answer_type)
        assert right_in_box(f"{one} {sign} {other} = {value}", value, answer_type)
        assert not right_in_box(f"{one}{sign}{other}", one, answer_type)
        assert not right_in_box(f"{one}{sign}{other}", other, answer_type)


def right_in_box(answer, gold, answer_type):
    if answer_type == "math":
        pytest.importorskip("math_verify")
    return grade(f"\\boxed{{{answer}}}", str(gold), answer_type).right


@REPEATABLE
@given(st.integers(1, 9), st.integers(10, 40), WORD)
def test_a_line_of_arithmetic_says_its_right_side(part, whole, word):
    percent = 100 * part / whole
    assume(percent != whole)
    text = f"{part} {word} / {whole} {word} * 100% = {percent:g}%"
    for answer_type in ("number", "math"):
        assert grade(text, f"{percent:g}%", answer_type).right
        assert not grade(text, str(whole), answer_type).right and not grade(text, "100", answer_type).right


CHOICES = ["the cat", "the dog", "the mouse", "the horse", "a whale"]
CAPITAL = st.sampled_from("ABCDE")


def letter(text, **settings):
    return extract(text, "choice", choices=CHOICES, **settings).extracted


@REPEATABLE
@given(CAPITAL, CAPITAL, st.sampled_from(["({}, {})", "({} and {})", "({}) or ({})", "{} or {}", "({} / {})"]))
def test_two_letters_are_no_answer(one, other, form):
    assume(one != other)
    both = form.format(one, other)
    for text in (f"The answer is {both}.", both, f"\\boxed{{{both}}}", f"So {both}.", f"I choose {both}."):
        assert letter(text) is None, text


@REPEATABLE
@given(CAPITAL, CAPITAL, CAPITAL, st.sampled_from(["for sure {0}, it can't be {1} or {2}", "It's {0}. It is not {1}.",
                                                   "Neither {1} nor {2}, so {0}."]))  # fmt: skip
def test_what_is_denied_never_counts(chosen, one, other, form):
    assume(len({chosen, one, other}) == 3)
    assert letter(form.format(chosen, one, other)) == chosen


@REPEATABLE
@given(CAPITAL, st.sampled_from(["({0}) If the coin is fair, it lands evenly.", "Q={1}", "where Q = {1}", "{1} = 5 N",
                                 "Vitamin {1} keeps it healthy", "the cells of group {1} and of group F grow",
                                 "({0}) Suppose that it rains.", "We know {1} implies F in this model"]))  # fmt: skip
def test_a_letter_that_nobody_chose_is_no_answer(capital, form):
    assert letter(form.format(capital.lower(), capital)) is None


@REPEATABLE
@given(CAPITAL, CAPITAL, st.sampled_from(["The answer is ({}).", "\\boxed{{{}}} is it.", "Answer: {}."]))
def test_which_of_contradictory_statements_counts_is_a_setting(one, other, form):
    assume(one != other)
    text = f"{form.format(one)} Wait. {form.format(other)}"
    assert letter(text) == letter(text, contradictory="last") == other
    assert letter(text, contradictory="first") == one


@REPEATABLE
@given(NATURAL, NATURAL, st.sampled_from(["The answer is {}.", "\\boxed{{{}}} is it.", "#### {}\n"]))
def test_the_setting_holds_for_every_kind_of_answer(one, other, form):
    assume(one != other)
    text = f"{form.format(one)} Wait. {form.format(other)}"
    for kind in ("number", "math", "text"):
        assert extract(text, kind).extracted == str(other)
        assert extract(text, kind, contradictory="first").extracted == str(one)
    for yes, no in (("yes", "no"), ("no", "yes")):
        text = f"{form.format(yes)} Wait. {form.format(no)}"
        assert extract(text, "bool", contradictory="first").extracted == yes
        assert grade(text, no, "bool").right and not grade(text, no, "bool", contradictory="first").right


ROWS = st.lists(st.tuples(NATURAL, NATURAL), min_size=2, max_size=3, unique=True)


@REPEATABLE
@given(ROWS, st.sampled_from(["x={},y={}", "x = {} \\text{{ and }} y = {}", "x=\\frac{{{}}}{{1}},y={}"]),
       st.sampled_from(["; ", " \\text{{ or }} ", ", "]))  # fmt: skip
def test_solutions_with_names_are_tuples(rows, form, joint):
    assume(all(one != other for one, other in rows))
    tuples = ", ".join(f"({one},{other})" for one, other in rows)
    named = joint.format().join(form.format(*row) for row in rows)
    assert right(tuples, named, multiple=True) and right(named, tuples, multiple=True)
    assert right(joint.format().join(f"y={other},x={one}" for one, other in reversed(rows)), named, multiple=True)
    swapped = [rows[0][::-1], *rows[1:]]
    assume(set(swapped) != set(rows))
    for wrong in (", ".join(f"({one},{other})" for one, other in swapped), tuples.rsplit(", (", 1)[0]):
        assert not right(wrong, named, multiple=True)
    mixed = [(rows[0][0], rows[1][1]), (rows[1][0], rows[0][1]), *rows[2:]]
    assume(set(mixed) != set(rows))
    assert not right(joint.format().join(form.format(*row) for row in mixed), named, multiple=True)


FINALS = (
    "The final answer is ${}$. I hope it is correct.", "So the final answer is: {}.",
    "Final Answer: The final answer is \\({}\\).",
)  # fmt: skip


@REPEATABLE
@given(NATURAL, NATURAL, st.sampled_from(FINALS))
def test_a_final_answer_overrules_the_boxes_before_it(part, whole, form):
    assume(part != whole)
    text = f"First $\\boxed{{{part}}}$. {form.format(whole)}"
    for kind in ("number", "math"):
        assert extract(text, kind).extracted == str(whole)
        assert extract(text, kind, contradictory="first").extracted == str(part)
        assert extract(f"{form.format(part)} So $\\boxed{{{whole}}}$.", kind).extracted == str(whole)
        assert extract(f"$\\boxed{{{whole}}}$. This is the final answer.", kind).extracted == str(whole)


@REPEATABLE
@given(NATURAL, NATURAL, st.sampled_from(["increases by", "decreases by", "amounts to", "falls to", "rises by"]),
       st.sampled_from(["%", "", " units"]))  # fmt: skip
def test_a_change_at_the_end_is_the_number_behind_a_formula(number, other, verb, unit):
    assume(number != other)
    gold = f"{number}%" if unit == "%" else str(number)
    text = f"We get $$x \\geq {other}.$$ Therefore, the error in the measurement {verb} {number}{unit}."
    assert extract(text, "math").extracted == gold
    assert extract(f"So $x={other}$, as it {verb} {number}{unit} each time it turns.", "math").extracted == str(other)
