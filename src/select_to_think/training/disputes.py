"""What the verifier learns from: disputes between the SLM and the mentor, each with what comes of either segment.

Training problems are answered with the mentor, a coin deciding every dispute, so that the disputes are those of answers
which go either way. From each segment the SLM then finishes the answer alone, greedily; what it arrives at is graded.

Non-goals: the network (`training/verifier.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt

from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings
from select_to_think.evaluation.grading import grade
from select_to_think.evaluation.items import Item
from select_to_think.files import Journal
from select_to_think.methods import SLM
from select_to_think.policies.base import Limits
from select_to_think.policies.greedy import Greedy
from select_to_think.runs import Run
from select_to_think.structures import Progress, Requests
from select_to_think.verifiers.base import Dispute, Follower
from select_to_think.verifiers.coin import CoinVerifier

if TYPE_CHECKING:
    from select_to_think.session import Session


@dataclass(frozen=True, slots=True)
class JudgedDispute(Dispute):
    """A dispute, and whether the SLM's and the mentor's segment led to the right answer."""

    before: list[NonNegativeInt]
    slm: list[NonNegativeInt]
    mentor: list[NonNegativeInt]
    right: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """A line of the journal: every dispute of one item."""

    id: str
    disputes: list[JudgedDispute]


@dataclass(frozen=True)
class Noting(CoinVerifier):
    """A coin that writes down what it decided on."""

    seen: list[Dispute] = field(default_factory=list)

    def margin(self, dispute: Dispute, context: Follower, random: Random) -> Generator[Requests, Any, float]:
        """Certain, and arbitrary."""
        self.seen.append(dispute)
        return (yield from super().margin(dispute, context, random))


def judge_disputes(
    session: Session,
    items: Sequence[Item],
    decode: DecodeConfig,
    mentor: MentorConfig,
    journal: Journal[JudgedItem],
    progress: Progress | None = None,
) -> list[tuple[Item, JudgedDispute]]:
    """Every dispute of the items, with its item. What the journal holds is not done again; `progress` counts items."""
    done = {each.id: each.disputes for each in journal.records}
    todo = [item for item in items if item.id not in done]
    for start in range(0, len(todo), decode.max_batch):
        part = todo[start : start + decode.max_batch]
        found = find_disputes(session, part, decode, mentor)
        right = iter(outcomes(session, part, found, decode))
        for item, disputes in zip(part, found, strict=True):
            done[item.id] = [
                JudgedDispute(list(each.before), list(each.slm), list(each.mentor), (next(right), next(right)))
                for each in disputes
            ]
            journal.append(asdict(JudgedItem(item.id, done[item.id])))
            if progress:
                progress(len(done), len(items))
    return [(item, dispute) for item in items for dispute in done[item.id]]


def find_disputes(
    session: Session, items: Sequence[Item], decode: DecodeConfig, mentor: MentorConfig
) -> list[list[Dispute]]:
    """The disputes of each item's answer."""
    decoder = session.decoder("mentor-coin", MethodSettings(decode, mentor=mentor))
    noting = [Noting() for _ in items]

    def runs() -> Iterator[tuple[int, Run]]:
        for i, (item, coin) in enumerate(zip(items, noting, strict=True)):
            prompt = session.prompt(item.asked, decode.max_new_tokens, with_llm=True)
            policy: Any = decoder.policy
            run = replace(policy, verifier=coin).run(prompt, f"{decode.seed}/{item.id}")
            run = session.over_llm(run, item.asked, prompt)
            yield i, session.run(run, decoder.roles, session.room_for(item.asked, prompt, decode.max_new_tokens))

    for _ in session.results(runs(), decode):
        pass
    return [coin.seen for coin in noting]


def outcomes(
    session: Session, items: Sequence[Item], disputes: Sequence[Sequence[Dispute]], decode: DecodeConfig
) -> Iterator[bool]:
    """Whether the SLM arrives at the right answer from the SLM's and from the mentor's segment of each dispute."""
    begun = [
        (item, [*dispute.before, *segment])
        for item, found in zip(items, disputes, strict=True)
        for dispute in found
        for segment in (dispute.slm, dispute.mentor)
    ]
    whole = {i: tokens for i, (_, tokens) in enumerate(begun)}
    runs = []
    for i, (item, tokens) in enumerate(begun):
        room = decode.max_new_tokens - len(tokens)
        if room > 0 and tokens[-1] not in session.stop_ids:
            prompt = [*session.prompt(item.asked, decode.max_new_tokens, with_llm=True), *tokens]
            rest = Greedy(Limits(session.stop_ids, room)).run(prompt, "")
            runs.append((i, session.run(rest, {"slm": SLM}, len(prompt) + room)))
    for i, generation in session.results(iter(runs), decode):
        whole[i] = [*begun[i][1], *generation.tokens]
    for i, (item, _) in enumerate(begun):
        if whole[i][-1] not in session.stop_ids:  # cut off: wrong, unread
            yield False
            continue
        text = session.text(whole[i])
        yield grade(text, item.answer, item.answer_type, choices=item.choices, meta=item.meta).right
