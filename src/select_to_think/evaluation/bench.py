"""What decoding costs: every method in turn on the same prompts, medians, ratios to the engine's own greedy.

Two workloads: published model shapes with random weights (timing does not depend on the weights; a seeded coin forces
the triggers at the budget) and the bundled pair on real questions with its calibrated triggers.

Non-goals: quality. Single times are not comparable between machines; ratios inside one run are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from select_to_think.config import BenchConfig, DecodeConfig, MentorConfig, ScorerConfig, SelectConfig
from select_to_think.contexts.protocol import Backend
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.engine import Engine
from select_to_think.evaluation import plain
from select_to_think.evaluation.timing import Contender, Cost, table, time_contenders
from select_to_think.methods import build_backends
from select_to_think.models.adapter import inject_adapter
from select_to_think.models.loading import choose_device
from select_to_think.models.shapes import random_model
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.policies.base import Limits, Policy
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.mentor import Mentor
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.probability import bucketed_kl_nats
from select_to_think.selectors.llm import LLMSelector
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.structures import Progress, comma_separated, unknown_name
from select_to_think.triggers.base import StepView
from select_to_think.triggers.kl import KLTrigger
from select_to_think.triggers.random import RandomTrigger
from select_to_think.verifiers.free import FreeVerifier

if TYPE_CHECKING:
    from select_to_think.session import Session

CANDIDATES, BINS, LORA_RANK = SelectConfig.candidates, ScorerConfig.bins, ScorerConfig.lora_rank
NAMES = tuple(
    "greedy transformers-generate s2t-local-coupled s2t-local-proposer s2t-local-activated s2t-kl s2t-kl-plain "
    "s2t-entropy takeover maj@8 mentor-free mentor-free-plain llm".split()
)


@dataclass(frozen=True)
class CoinKLTrigger(KLTrigger):
    """Pays for the KL trigger, decides by a coin: random weights would fire at every step."""

    def statistic(self, view: StepView, random: Random) -> float:
        """A draw, after the divergence has been computed."""
        super().statistic(view, random)
        return random.random()


def run_engine(
    backends: Callable[[], dict[str, Backend]], policy: Policy, prompts: Sequence[Sequence[int]], batch: int
) -> Cost:
    """Time the engine over all prompts, prefill included."""
    made = backends()
    start = time.perf_counter()
    results = list(Engine(made, batch).run((i, policy.run(p, str(i))) for i, p in enumerate(prompts)))
    seconds = time.perf_counter() - start
    tokens = sum(len(generation.tokens) for _, generation in results)
    return Cost(seconds, tokens, sum(generation.counts.llm_forwards for _, generation in results))


def run_generate(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> Cost:
    """Time `transformers` greedy generation of one batch of prompts of equal length."""
    ids = torch.tensor(prompts, device=model.device)
    start = time.perf_counter()
    model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return Cost(time.perf_counter() - start, len(prompts) * new_tokens)


def run_plain_s2t(
    slm: PreTrainedModel,
    llm: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    fires: Callable[[Random, torch.Tensor, torch.Tensor], bool],
    stop_ids: Collection[int] = (),
) -> Cost:
    """Time S2T as defined. `fires`: the row's coin, log-probabilities of SLM and LLM (V,) -> triggered?"""
    write = partial(plain.select_to_think, plain.PlainModel(slm), plain.PlainModel(llm))
    start = time.perf_counter()
    coins = (partial(fires, Random(str(number))) for number in range(len(prompts)))
    rows = zip(prompts, coins, strict=True)
    written = sum(len(write(prompt, new_tokens, stop_ids, coin, CANDIDATES)) for prompt, coin in rows)
    return Cost(time.perf_counter() - start, written, written)


def shape_contenders(config: BenchConfig, device: str) -> list[Contender]:
    """Every method on random models of the published shapes."""
    dtype = getattr(torch, config.bench_dtype)
    slm, llm = (random_model(shape, device, dtype) for shape in (config.slm_shape, config.llm_shape))
    switch = inject_adapter(slm, LORA_RANK, 2.0 * LORA_RANK)
    with torch.no_grad():
        for _, weight in switch.weights():
            weight.normal_(0, 0.01)
    bins = torch.randn(BINS, slm.config.hidden_size, device=slm.device)
    draw = Random(0)
    prompts = [[draw.randrange(1000, 100_000) for _ in range(config.prompt_tokens)] for _ in range(config.batch)]
    limits, threshold = Limits(frozenset(), config.new_tokens), 1 - config.bench_budget

    def timed(name: str, policy: Policy, **around: Any) -> Contender:
        mode = name.removeprefix("s2t-local-")
        return Contender(name, lambda: run_engine(lambda: make(mode), policy, prompts, config.batch), **around)

    def make(mode: str) -> dict[str, Backend]:
        if mode == "activated":
            return {"slm": TransformersBackend(slm, switch=switch, adapted="leaves", bin_rows=bins)}
        if mode == "coupled":
            return {"slm": TransformersBackend(slm, bin_rows=bins)}
        backends: dict[str, Backend] = {"slm": TransformersBackend(slm, switch=switch)}
        if mode == "proposer":
            backends["scorer"] = TransformersBackend(slm, switch=switch, adapted="always", bin_rows=bins)
        return backends | {"llm": TransformersBackend(llm)}

    def local(model: str) -> Select:
        return Select(limits, RandomTrigger(threshold), ScorerSelector(model, True, 0.1, 1.0), CANDIDATES)

    def toss(coin: Random, small: torch.Tensor, large: torch.Tensor) -> bool:
        return coin.random() > threshold

    vote = MajorityVote(Sample(limits, 0.7, 0.8, 20, 0.0), 8, lambda tokens: str(tokens[-1]), early_stop=False)
    return [
        timed("greedy", Greedy(limits)),
        Contender("transformers-generate", lambda: run_generate(slm, prompts, config.new_tokens)),
        timed("s2t-local-coupled", local("slm"), around=switch.folded_in),
        timed("s2t-local-proposer", local("scorer")),
        timed("s2t-local-activated", local("slm")),
        timed("s2t-kl", BlockVerified(limits, CoinKLTrigger(threshold), LLMSelector(), CANDIDATES)),
        Contender("s2t-kl-plain", lambda: run_plain_s2t(slm, llm, prompts, config.plain_tokens, toss)),
        timed("s2t-entropy", Select(limits, RandomTrigger(threshold), LLMSelector(), CANDIDATES)),
        timed("takeover", BlockVerified(limits, CoinKLTrigger(threshold), LLMSelector(takeover=True), CANDIDATES)),
        timed("maj@8", vote),
        timed("llm", Greedy(limits, model="llm")),
    ]


def wanted_names(names: str) -> tuple[str, ...]:
    """The rows that a comma-separated list asks for, greedy among them. Raises S2TError for an unknown one."""
    if names == "all":
        return NAMES
    wanted = ["greedy", *comma_separated(names)]
    for name in wanted:
        if name not in NAMES:
            raise unknown_name("row", name, NAMES)
    return tuple(wanted)


def pair_contenders(session: Session, config: BenchConfig, questions: Sequence[str]) -> list[Contender]:
    """Every method on a real pair with its calibrated triggers; answers end where the models end them."""
    decode = DecodeConfig(max_new_tokens=config.new_tokens, max_batch=config.batch)
    select = SelectConfig(trigger_budget=config.bench_budget)

    def timed(name: str, method: str, **settings: Any) -> Contender:
        def run() -> Cost:
            start = time.perf_counter()
            results = session.generate(questions, method, decode, replace(select, **settings))
            seconds = time.perf_counter() - start
            return Cost(seconds, sum(len(g.tokens) for g in results), sum(g.counts.llm_forwards for g in results))

        return Contender(name, run)

    kl = session.trigger("kl", config.bench_budget)
    prompts = [session.prompt(question, config.new_tokens, with_llm=True) for question in questions]

    def diverge(coin: Random, small: torch.Tensor, large: torch.Tensor) -> bool:
        top = small.topk(kl.support).indices
        return float(bucketed_kl_nats(large[top], small[top])) > kl.threshold

    slm, llm = session.slm.model, session.llm.model
    return [
        timed("greedy", "greedy"),
        *(timed(f"s2t-local-{mode}", "s2t-local", scorer_mode=mode) for mode in ("coupled", "proposer", "activated")),
        timed("s2t-kl", "s2t"),
        Contender(
            "s2t-kl-plain",
            lambda: run_plain_s2t(slm, llm, prompts, config.new_tokens, diverge, session.stop_ids),
        ),
        timed("s2t-entropy", "s2t", trigger="entropy"),
        timed("takeover", "takeover"),
        timed("maj@8", "maj@8"),
        *mentor_contenders(session, config, questions),
        timed("llm", "llm"),
    ]


def mentor_contenders(session: Session, config: BenchConfig, questions: Sequence[str]) -> list[Contender]:
    """`mentor-free` and its plain reference. Nothing ends their answers, so that long texts can be timed.

    None for an LLM with another vocabulary: the plain reference knows only one.
    """
    if not session.shares_vocabulary:
        return []
    mentor, forbidden = MentorConfig(), sorted(reserved_ids(session.slm))
    asked = VerifierPrompt(session.slm, mentor.verifier_template, mentor.verifier_opening)
    verifier = FreeVerifier(asked, mentor.order)
    limits = Limits(frozenset(), config.new_tokens)
    policy = Mentor(limits, session.words, verifier, mentor.consult_rate, mentor.segment_tokens)
    prompts = [session.prompt(question, config.new_tokens, with_llm=True) for question in questions]

    def fast() -> Cost:
        with ExitStack() as stack:
            made = build_backends(session, "mentor-free", SelectConfig(), stack)
            start = time.perf_counter()
            runs = [
                (i, policy.about(question).run(prompt, str(i)))
                for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
            ]
            results = dict(Engine(made, config.batch).run(runs))
            seconds = time.perf_counter() - start
        outputs = tuple(results[i].tokens for i in range(len(runs)))
        forwards = sum(generation.counts.llm_forwards for generation in results.values())
        return Cost(seconds, sum(map(len, outputs)), forwards, outputs)

    def slow() -> Cost:
        slm, llm = (plain.PlainModel(each.model, forbidden, logits_to_keep=1) for each in (session.slm, session.llm))

        def write(number: int) -> list[int]:
            about = asked.about(questions[number])

            def takes_mentor(out: list[int], ours: list[int], theirs: list[int]) -> bool:
                orders = [about.ids(out, ours, theirs), about.ids(out, theirs, ours)]
                return plain.free_margin(slm, orders, about.letters) > 0

            settings = session.words, mentor.consult_rate, mentor.segment_tokens, Random(str(number))
            return plain.mentor(slm, llm, prompts[number], config.new_tokens, (), *settings, takes_mentor)

        start = time.perf_counter()
        outputs = tuple(tuple(write(number)) for number in range(len(prompts)))
        return Cost(time.perf_counter() - start, sum(map(len, outputs)), llm.forwards, outputs)

    return [Contender("mentor-free", fast), Contender("mentor-free-plain", slow)]


def bench_decode(
    config: BenchConfig, session: Session, questions: Sequence[str], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The whole table: random models of the published shapes, then the pair on `questions`.

    Raises:
        S2TError: an unknown shape or row.
    """
    names = wanted_names(config.names)
    workloads: list[tuple[str, int, list[Contender]]] = []
    if config.slm_shape != "none":
        model = f"{config.slm_shape} + {config.llm_shape}, random {config.bench_dtype}"
        contenders = shape_contenders(config, choose_device(session.config.device))
        kept = [contender for contender in contenders if contender.name in names]
        workloads.append((model, config.prompt_tokens, kept))
    if questions:
        longest = max(len(session.prompt(question, config.new_tokens, with_llm=True)) for question in questions)
        contenders = pair_contenders(session, config, questions)
        workloads.append(
            (session.config.slm or session.config.pair, longest, [c for c in contenders if c.name in names])
        )
    done, total = 0, sum(len(c) for _, _, c in workloads) * (config.repeats + 1)

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    rows = []
    for model, prompt_tokens, contenders in workloads:
        rows += table(model, config.batch, prompt_tokens, time_contenders(contenders, config.repeats, tick))
    return rows
