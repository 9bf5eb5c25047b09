"""math-verify as the judge of mathematics: parts are paired here, what an expression means is math-verify's to say.

Runs in the process of `maths_process`, which bounds time and memory; nothing else imports this module.

Non-goals: extraction and spelling (`maths`, `latex`), and bounds.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from latex2sympy2_extended.math_normalization import normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Eq, Union, simplify

from select_to_think.evaluation.grading import latex, number

LEVELS = 4  # of parts inside parts

# units=True would drop trailing letters: \frac{1}{2}ab would read as 1/2
_NORMAL = NormalizationConfig(basic_latex=True, malformed_operators=True, nits=True, boxed="none")
_CASE_COUNTS = ConversionConfig(lowercase_symbols=False)
_RELATION = re.compile(r"[<>]|\\[lg]eq(?![a-z])")
_PLAIN_LOG = re.compile(r"\\log(?!\s*_)(?![a-zA-Z])")
_BASE = re.compile(r"([\dA-Fa-f]+)_\{?(\d+|[a-z]+)\}?")
_WORDS = re.compile(r"(?=.*[A-Za-z]{3})[A-Za-z]+(?:[ '\-][A-Za-z]+)*")
_LETTER = re.compile(r"\(?([A-Z])\)?")


def warm_up() -> None:
    """Read a few expressions, so that grammar tables are built once and not for each verdict."""
    logging.disable(logging.CRITICAL)
    same(r"\frac{1}{2}(x+1)^{2}, \sqrt{3} \pi", r"\sqrt[3]{4}-x_1, \{1, (2, 3]\}", None)
    same(r"\frac{n(n+1)}{6}", r"\frac{n^{2}}{3}", None)


def same(gold: str, ours: str, tolerance: float | None, levels: int = LEVELS) -> bool:
    """Whether two normalised expressions are the same: as a whole, or part by part."""
    gold, ours = latex.both_signs(gold), latex.both_signs(ours)
    gold, ours = (latex.as_tuples(side, beside=gold) for side in (gold, ours))
    (gold_kind, golds), (our_kind, answers) = latex.shape(gold), latex.shape(ours)
    kinds = {gold_kind, our_kind}
    if not levels or kinds == {"scalar"}:
        return _same_scalar(gold, ours, tolerance)
    if "scalar" in kinds:
        bare = latex.without_name(gold), latex.without_name(ours)
        return same(*bare, tolerance, levels - 1) if bare != (gold, ours) else _same_meaning(gold, ours, tolerance)
    if kinds == {"list"}:
        return _same_unordered(golds, answers, tolerance, levels - 1)
    if len(golds) != len(answers) or (len(kinds) > 1 and "list" not in kinds):
        return False
    return all(same(*pair, tolerance, levels - 1) for pair in zip(golds, answers, strict=True))


def _same_unordered(golds: tuple[str, ...], answers: tuple[str, ...], tolerance: float | None, levels: int) -> bool:
    """Whether the parts pair up; what the gold says once may be said twice. Parts equal by form go first."""
    left, rest = ([latex.without_name(part) for part in parts] for parts in (answers, golds))
    forms = {latex.compact(part): part for part in rest}
    if len(forms) == len(rest):
        left = list({latex.compact(part): part for part in left}.values())
    if len(rest) != len(left):
        return False
    for part in sorted(rest, key=lambda part: latex.compact(part) not in map(latex.compact, left)):
        by_form = [other for other in left if latex.compact(other) == latex.compact(part)]
        twin = next(iter(by_form), None) or next((x for x in left if same(part, x, tolerance, levels)), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _same_scalar(gold: str, ours: str, tolerance: float | None) -> bool:
    """Whether two single expressions are the same: words, numbers and bases here, all else by math-verify."""
    gold, ours = latex.without_unit(gold, beside=ours), latex.without_unit(ours, beside=gold)
    bare = latex.compact(latex.without_name(gold)), latex.compact(latex.without_name(ours))
    if bare[0] == bare[1] or gold == ours:
        return bool(gold)
    if _WORDS.fullmatch(gold):
        return latex.words(gold) == latex.words(ours)
    if letter := _LETTER.fullmatch(bare[0]):
        return bare[1] in (letter[1], f"({letter[1]})")
    values = number.value_of(bare[0]), number.value_of(bare[1])
    if values[0] is not None and values[1] is not None:
        return number.same(values[1], values[0], tolerance)
    if base := _BASE.fullmatch(bare[0]):
        return bare[1] == base[1] or (
            (other := _BASE.fullmatch(bare[1])) is not None and other.groups() == base.groups()
        )
    if gold.count("=") > 1:
        gold = latex.last_side(gold)
    if "=" not in gold or "=" not in ours:
        gold, ours = latex.without_name(gold), latex.without_name(ours)
        ours = ours if "=" in gold else latex.last_side(ours)
    if r"\ln" in gold:  # \log without a base means the natural one there
        ours = _PLAIN_LOG.sub(r"\\ln", ours)
    return _same_meaning(gold, ours, tolerance)


def _read(text: str) -> Any:
    """The expression as sympy has it, "x < 1 or x > 2" as a union. Raises what the parser raises."""
    kind, parts = latex.shape(text)
    if kind == "list" and all(_RELATION.search(part) for part in parts):
        return Union(*(_read(part).as_set() for part in parts))
    text = normalize_latex(text.replace(r"\%", ""), _NORMAL)
    return latex2sympy(
        text, is_real=not should_treat_as_complex(text), normalization_config=None, conversion_config=_CASE_COUNTS
    )


def _same_meaning(gold_text: str, our_text: str, tolerance: float | None) -> bool:
    """Whether math-verify takes two expressions for the same; equations count up to a constant factor."""
    try:
        gold, ours = _read(gold_text), _read(our_text)
        names = [{str(symbol) for symbol in getattr(side, "free_symbols", ())} for side in (gold, ours)]
        if names[0] != names[1] and {name.lower() for name in names[0]} == {name.lower() for name in names[1]}:
            return False
        if verify(gold, ours, timeout_seconds=None, allow_set_relation_comp=True):
            return True
        if isinstance(gold, Eq) and isinstance(ours, Eq):
            ratio = simplify((gold.lhs - gold.rhs) / (ours.lhs - ours.rhs))
            return bool(ratio.is_number and ratio.is_finite and ratio != 0)
        return tolerance is not None and bool(abs(complex(gold) - complex(ours)) <= tolerance)
    except Exception:  # whatever parser and sympy raise on these texts, they were not shown to be the same
        return False
