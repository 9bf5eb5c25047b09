"""From what was measured to a plain recommendation: rules, each with the reason that it gives.

A gain counts only if its interval lies above 0; among ways that are about as good, the cheaper or simpler one wins.
Non-goals: measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from select_to_think.advice.document import DISTILL, GREEDY, LLM, Advice, DivergenceRow, Recommendation, Way
from select_to_think.evaluation.results import ItemRecord
from select_to_think.evaluation.statistics import PairedDifference, paired_difference

TOLERANCE = 0.01  # of accuracy, that a cheaper way may lose
SIMPLEST = (DISTILL, "s2t-local")  # first what decodes greedily and needs no trigger

Right = Mapping[str, Sequence[float]]  # way -> outcome of each item


def marks(records: Sequence[ItemRecord]) -> list[float]:
    """The outcome of each item, 0 or 1."""
    return [float(record.right) for record in records]


def recommend(advice: Advice, right: Right, unprobed: Sequence[str]) -> Recommendation:
    """Which way with an LLM at inference, which without, and why, from all else that was found.

    `unprobed`: why something was not tried.
    """
    by_llm = advice.graded_by == "llm"
    reasons = [headroom_words(advice.headroom, by_llm)]
    reasons += [hit_words(advice.hit_at, advice.main_budget), divergence_words(advice.divergences[-1])]
    with_llm = best_with_llm(advice, reasons)
    without = best_without_llm(advice, right, reasons)
    uncertainty = [width_words(advice), *cut_off_words(advice)]
    if probes := advice.probes:
        uncertainty.append(
            f"What is trained was tried after {probes[0].trained_on} questions only. More should gain more; the "
            "ceiling says about how much more at most. Intervals are over questions: other seeds would move them too."
        )
    uncertainty += unprobed
    if by_llm:
        uncertainty.append("Without answers, right is what agrees with the LLM: its own mistakes count as right.")
    train = without.name if without is not None else None
    return Recommendation(train or GREEDY, None if with_llm is None else with_llm.name, train, reasons, uncertainty)


def best_with_llm(advice: Advice, reasons: list[str]) -> Way | None:
    """The cheapest way with an LLM that loses at most `TOLERANCE` on the best of them; None if none clearly gains."""
    asking = [way for way in advice.ways if way.asks_llm and way.gain.low > 0]
    if not asking:
        reasons.append("No way that asks the LLM is clearly better than the SLM alone on these questions.")
        return None
    best = max(asking, key=lambda way: way.row.accuracy)
    good = [way for way in asking if way.row.accuracy >= best.row.accuracy - TOLERANCE]
    chosen = min(good, key=price)
    words = f"With the LLM at inference, {chosen.name} gains {interval(chosen.gain)} at {price_words(chosen)}"
    alone = advice.way(LLM)
    if alone is not None and alone is not chosen:
        words += f"; {LLM} alone gains {interval(alone.gain)} at {price_words(alone)}"
    reasons.append(f"{words}.")
    return chosen


def price(way: Way) -> tuple[float, float]:
    """What an answer costs: money where prices are known, else forwards of the LLM; then tokens."""
    row = way.row
    tokens = row.llm_tokens_processed + (row.slm_tokens_processed or 0)
    return (row.llm_forwards if row.money is None else row.money) / row.n, tokens / row.n


def price_words(way: Way) -> str:
    """The same for a person."""
    first, _ = price(way)
    if way.row.money is not None:
        return f"{1000 * first:.3g} of your currency for 1,000 answers"
    return f"{first:.1f} LLM forwards ({way.row.llm_tokens_processed / way.row.n:.0f} tokens) an answer"


def best_without_llm(advice: Advice, right: Right, reasons: list[str]) -> Way | None:
    """The simplest trained way that is not clearly worse than the best of them; None if none clearly gains."""
    probes = advice.probes
    gaining = [way for way in probes if way.gain.low > 0]
    if not gaining:
        if probes:
            best = max(probes, key=lambda way: way.row.accuracy)
            reasons.append(
                f"No probe is clearly better than the SLM alone: the best, {best.name}, gains {interval(best.gain)}."
            )
        return None
    best = max(gaining, key=lambda way: way.row.accuracy)
    good = [way for way in gaining if way is best or paired_difference(right[way.name], right[best.name]).high >= 0]
    chosen = min(good, key=lambda way: (SIMPLEST.index(way.row.method), -way.row.accuracy))
    reasons.append(
        f"Without an LLM at inference, {chosen.name} already gains {interval(chosen.gain)} when trained on "
        f"{chosen.trained_on} questions{ceiling_words(advice.way(chosen.ceiling))}."
    )
    rivals = [way for way in probes if way.row.method != chosen.row.method]
    if rivals:
        rival = max(rivals, key=lambda way: way.row.accuracy)
        ahead = paired_difference(right[chosen.name], right[rival.name])
        verdict = "no clear difference" if ahead.low <= 0 else "it is better"
        reasons.append(f"{chosen.name} minus {rival.name}: {interval(ahead)}, {verdict}.")
    if advice.either is not None:
        reasons.append(
            f"At least one of {DISTILL} and the best scorer is right in {interval(advice.either)} more than {DISTILL} "
            "alone: that bounds what choosing between them could add; a scorer trained on the distilled SLM was not "
            "tried."
        )
    return chosen


def ceiling_words(ceiling: Way | None) -> str:
    """What a way can gain at most, about."""
    return "" if ceiling is None else f"; its ceiling is {interval(ceiling.gain)} ({ceiling.name})"


def either(probes: Sequence[Way], right: Right) -> PairedDifference | None:
    """What distillation and the best scorer together could gain on distillation: items that either gets right."""
    distilled = next((way for way in probes if way.row.method == DISTILL), None)
    scorers = [way for way in probes if way.row.method != DISTILL]
    if distilled is None or not scorers:
        return None
    scorer = max(scorers, key=lambda way: way.row.accuracy)
    one, other = (right[way.name] for way in (distilled, scorer))
    return paired_difference(np.maximum(one, other), one)


def headroom_words(headroom: PairedDifference, graded_by_llm: bool) -> str:
    """How much there is to gain."""
    words = f"Headroom (takeover minus greedy): {interval(headroom)}."
    if headroom.low > 0:
        return words
    where = "agrees with itself" if graded_by_llm else "is right"
    return f"{words} It is not clear that the LLM {where} more often here: look at more questions, or at another LLM."


def hit_words(hit_at: Mapping[str, float | None], budget: float) -> str:
    """Whether selecting can be enough."""
    first, eighth = (f"{100 * (hit_at[k] or 0.0):.0f} %" for k in ("1", "8"))
    return (
        f"At the {100 * budget:g} % of steps where the models differ most, the LLM's token is the SLM's first choice "
        f"in {first} and among its first eight in {eighth}."
    )


def divergence_words(row: DivergenceRow) -> str:
    """What the mistakes are like, and what follows."""
    total = row.n_divergences
    if not total:
        return "The two models do not diverge in these answers."
    shares = {"habits": row.habit, "sure and wrong": row.sure, "unsure": row.unsure}
    parts = ", ".join(f"{100 * count / total:.0f} % {name}" for name, count in shares.items())
    outside = 100 * row.not_candidate / total
    return (
        f"{total:,} divergences in {row.n_steps:,} steps: {parts}, {outside:.0f} % not among the candidates. Habits "
        "can be trained away; what is not among the candidates cannot be selected."
    )


def width_words(advice: Advice) -> str:
    """How far chance reaches."""
    widest = max((way.gain.high - way.gain.low) / 2 for way in advice.ways)
    return f"{advice.n_items} questions: a gain is known to about ±{100 * widest:.1f} points."


def cut_off_words(advice: Advice) -> list[str]:
    """What the limit of new tokens hides, if it ends answers of the SLM or of the LLM."""
    cut = [
        f"{way.row.truncated} of {way.row.n} answers of {way.name}"
        for way in map(advice.way, (GREEDY, LLM))
        if way is not None and way.row.truncated
    ]
    if not cut:
        return []
    return [f"{' and '.join(cut)} were cut off, which counts as wrong: with a higher --max-new-tokens look again."]


def interval(difference: PairedDifference) -> str:
    """A difference in points with its 95 % interval."""
    low, middle, high = (
        f"{100 * value:+.1f}".replace("-", "−") for value in (difference.low, difference.difference, difference.high)
    )
    return f"{middle} points [{low}, {high}]"
