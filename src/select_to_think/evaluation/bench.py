"""What decoding costs: every method in turn on the same prompts, medians, ratios to the runtime's own greedy.

Two workloads: published model shapes with random weights (timing does not depend on the weights; a seeded coin forces
the triggers at the budget) and the bundled pair on real questions with its calibrated triggers.

Non-goals: quality. Single times are not comparable between machines; ratios inside one run are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from transformers import PreTrainedModel

from select_to_think.config import (
    BenchConfig,
    DecodeConfig,
    MentorConfig,
    MethodSettings,
    RuntimeConfig,
    ScorerMode,
    SelectConfig,
)
from select_to_think.contexts.transformers_backend import TransformersBackend
from select_to_think.evaluation import plain
from select_to_think.evaluation.meter import Meter
from select_to_think.evaluation.timing import Contenders, Cost, table, time_contenders, timed_events
from select_to_think.methods import LLM, SLM, find_method
from select_to_think.models.adapter import Adapter, adapted_paths
from select_to_think.models.loading import choose_device
from select_to_think.models.shapes import random_model
from select_to_think.models.verifier_prompt import VerifierPrompt
from select_to_think.models.vocabulary import reserved_ids
from select_to_think.policies.base import Limits, Policy
from select_to_think.policies.block_verified import BlockVerified
from select_to_think.policies.greedy import Greedy
from select_to_think.policies.majority import MajorityVote
from select_to_think.policies.sample import Sample
from select_to_think.policies.select import Select
from select_to_think.probability import bucketed_kl_nats
from select_to_think.runs import Run
from select_to_think.runtime import Runtime
from select_to_think.selectors.llm import LLMSelector
from select_to_think.selectors.scorer import ScorerSelector
from select_to_think.streams import Streams
from select_to_think.structures import Progress, Role, S2TError
from select_to_think.text import known_names
from select_to_think.training.settings import ScorerConfig
from select_to_think.triggers.base import Trigger
from select_to_think.triggers.kl import KL, SUPPORT, kl
from select_to_think.triggers.random import coin

if TYPE_CHECKING:
    from select_to_think.session import Session

CANDIDATES, BINS, LORA_RANK = SelectConfig.candidates, ScorerConfig.bins, ScorerConfig.lora_rank
NAMES = tuple(
    "greedy transformers-generate s2t-local-coupled s2t-local-proposer s2t-local-activated s2t-kl s2t-kl-plain "
    "s2t-entropy takeover maj@8 mentor-free mentor-free-plain llm".split()
)


def coin_kl(threshold: float) -> Trigger:
    """Pays for the KL trigger, decides by a coin: random weights would fire at every step."""
    return Trigger(KL, threshold, lambda slm, llm, random: kl(slm, llm) * 0 + np.float32(random.random()))


def run_generate(model: PreTrainedModel, prompts: Sequence[Sequence[int]], new_tokens: int) -> Cost:
    """Time `transformers` greedy generation of one batch of prompts, padded on the left where they differ in length."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    times = []
    for tokens in (1, new_tokens):
        start = time.perf_counter()
        model.generate(  # type: ignore[operator]
            ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        times.append(time.perf_counter() - start)
    return Cost(times[1], len(prompts) * new_tokens, prefill_seconds=times[0], slm_batch_forwards=new_tokens)


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


def random_adapter(model: PreTrainedModel) -> Adapter:
    """A LoRA of random numbers."""
    layers = {}
    for path in adapted_paths(model):
        layer: Any = model.get_submodule(path)
        outputs, inputs = layer.weight.shape
        down, up = torch.randn(inputs, LORA_RANK) * 0.01, torch.randn(LORA_RANK, outputs) * 0.01
        layers[path] = down, up
    return Adapter(layers, 2.0)


def shape_contenders(
    config: BenchConfig, runtime: RuntimeConfig, batch: int, slm: PreTrainedModel, llm: PreTrainedModel
) -> Contenders:
    """Every method on random models of the published shapes."""
    backends = {
        name: TransformersBackend(model, config=runtime, cost=float(model.num_parameters()))
        for name, model in (("slm", slm), ("llm", llm))
    }
    bins = torch.randn(BINS, slm.config.hidden_size)
    backends["slm"].add_adapter("scorer", random_adapter(slm), bins)
    draw = Random(0)
    low = config.prompt_tokens // 2 if config.ragged else config.prompt_tokens
    prompts = [
        [draw.randrange(1000, 100_000) for _ in range(draw.randint(low, config.prompt_tokens))] for _ in range(batch)
    ]
    limits, threshold = Limits(frozenset(), config.new_tokens), 1 - config.bench_budget
    room = config.prompt_tokens + config.new_tokens + 2 * CANDIDATES
    adapted = Role("slm", "scorer")

    def timed(policy: Policy, roles: Mapping[str, Role], copies: int = 0) -> Callable[[], Cost]:
        def run() -> Cost:
            runs = ((i, Run(policy.run(p, str(i)), roles, room, copies)) for i, p in enumerate(prompts))
            events = Streams(Runtime(backends, runtime)).events(runs, batch * max(1, copies))
            return timed_events(events, backends, batch)

        return run

    def local(mode: ScorerMode, roles: Mapping[str, Role]) -> Callable[[], Cost]:
        selector = ScorerSelector(mode, "anchored", 0.1, 1.0)
        return timed(Select(limits, coin(threshold), selector, CANDIDATES), roles)

    def toss(coin: Random, small: torch.Tensor, large: torch.Tensor) -> bool:
        return coin.random() > threshold

    vote = MajorityVote(Sample(limits, 0.7, 0.8, 20, 0.0), 8, False, lambda tokens: str(tokens[-1]))
    by_kl, both = coin_kl(threshold), {"slm": SLM, "llm": LLM}
    return {
        "greedy": timed(Greedy(limits), {"slm": SLM}),
        "transformers-generate": lambda: run_generate(slm, prompts, config.new_tokens),
        "s2t-local-coupled": local("coupled", {"slm": adapted}),
        "s2t-local-proposer": local("proposer", {"slm": SLM, "scorer": adapted}),
        "s2t-local-activated": local("activated", {"slm": SLM, "scorer": adapted}),
        "s2t-kl": timed(BlockVerified(limits, by_kl, LLMSelector(), CANDIDATES), both),
        "s2t-kl-plain": lambda: run_plain_s2t(slm, llm, prompts, config.plain_tokens, toss),
        "s2t-entropy": timed(Select(limits, coin(threshold), LLMSelector(), CANDIDATES), both),
        "takeover": timed(BlockVerified(limits, by_kl, LLMSelector(takeover=True), CANDIDATES), both),
        "maj@8": timed(vote, {"slm": SLM}, copies=8),
        "llm": timed(Greedy(limits, model="llm"), {"llm": LLM}),
    }


def wanted_names(names: str) -> tuple[str, ...]:
    """The rows that a comma-separated list asks for, greedy among them. Raises S2TError for an unknown one."""
    return NAMES if names == "all" else ("greedy", *known_names("row", names, NAMES))


def pair_contenders(session: Session, config: BenchConfig, batch: int, questions: Sequence[str]) -> Contenders:
    """Every method on a real pair with its calibrated triggers; answers end where the models end them."""
    decode = DecodeConfig(max_new_tokens=config.new_tokens, max_batch=batch)
    select = SelectConfig(trigger_budget=config.bench_budget)

    def timed(method: str, **settings: Any) -> Callable[[], Cost]:
        def run() -> Cost:
            runs = session.runs(questions, method, MethodSettings(decode, replace(select, **settings)))
            return timed_events(session.events(runs, batch), session.backends, min(batch, len(questions)))

        return run

    prompts = [session.prompt(question, config.new_tokens, with_llm=True) for question in questions]

    def run_plain() -> Cost:
        threshold = session.trigger("kl", config.bench_budget).threshold

        def diverge(coin: Random, small: torch.Tensor, large: torch.Tensor) -> bool:
            top = small.topk(min(SUPPORT, len(small))).indices
            return float(bucketed_kl_nats(large[top], small[top])) > threshold

        return run_plain_s2t(slm, llm, prompts, config.new_tokens, diverge, session.stop_ids)

    slm, llm = session.slm.trainable, session.local_llm.trainable
    return {
        "greedy": timed("greedy"),
        **{f"s2t-local-{mode}": timed("s2t-local", scorer_mode=mode) for mode in get_args(ScorerMode)},
        "s2t-kl": timed("s2t"),
        "s2t-kl-plain": run_plain,
        "s2t-entropy": timed("s2t", trigger="entropy"),
        "takeover": timed("takeover"),
        "maj@8": timed("maj@8"),
        **mentor_contenders(session, config, batch, questions),
        "llm": timed("llm"),
    }


def mentor_contenders(session: Session, config: BenchConfig, batch: int, questions: Sequence[str]) -> Contenders:
    """`mentor-free` and its plain reference. Nothing ends their answers, so that long texts can be timed.

    None for an LLM with another vocabulary: the plain reference knows only one.
    """
    if not session.shares_vocabulary:
        return {}
    mentor, forbidden = MentorConfig(), sorted(reserved_ids(session.slm))
    asked = VerifierPrompt(session.slm, mentor.verifier_template, mentor.verifier_opening)
    settings = MethodSettings(DecodeConfig(max_new_tokens=config.new_tokens), mentor=mentor)
    record, decoder = find_method("mentor-free"), session.decoder("mentor-free", settings)
    endless: Any = replace(decoder.policy, limits=Limits(frozenset(), config.new_tokens))  # type: ignore[type-var]
    decoder = replace(decoder, policy=endless)
    prompts = [session.prompt(question, config.new_tokens, with_llm=True) for question in questions]

    def fast() -> Cost:
        tasks = enumerate(zip(questions, prompts, strict=True))
        runs = ((i, session.answering(record, decoder, *task, settings)) for i, task in tasks)
        return timed_events(session.events(runs, batch), session.backends, min(batch, len(questions)))

    def slow() -> Cost:
        pair = session.slm, session.local_llm
        slm, llm = (plain.PlainModel(each.trainable, forbidden, logits_to_keep=1) for each in pair)

        def write(number: int) -> list[int]:
            about = asked.about(questions[number])

            def takes_mentor(out: list[int], ours: list[int], theirs: list[int]) -> bool:
                orders = [about.ids(out, ours, theirs), about.ids(out, theirs, ours)]
                return plain.free_margin(slm, orders, about.letters) > 0

            settings = session.words, mentor.consult_rate, mentor.segment_tokens, Random(f"0/{prompts[number]}")
            return plain.mentor(slm, llm, prompts[number], config.new_tokens, (), *settings, takes_mentor)

        start = time.perf_counter()
        outputs = tuple(tuple(write(number)) for number in range(len(prompts)))
        return Cost(time.perf_counter() - start, sum(map(len, outputs)), llm.forwards, outputs=outputs)

    return {"mentor-free": fast, "mentor-free-plain": slow}


def bench_decode(
    config: BenchConfig, session: Session, questions: Sequence[str], progress: Progress | None = None
) -> list[dict[str, Any]]:
    """The whole table: random models of the published shapes, then the pair on `questions`, for each batch size.

    Raises:
        S2TError: an unknown shape or row, or neither shapes nor questions.
    """
    names = wanted_names(config.names)
    workloads: dict[tuple[str, int, int], Contenders] = {}
    if config.slm_shape != "none":
        device, dtype = choose_device(session.config.device), getattr(torch, config.bench_dtype)
        slm, llm = (random_model(shape, device, dtype) for shape in (config.slm_shape, config.llm_shape))
        model = f"{config.slm_shape} + {config.llm_shape}, random {config.bench_dtype}"
        for batch in config.batches:
            contenders = shape_contenders(config, session.runtime_config, batch, slm, llm)
            workloads[model, batch, config.prompt_tokens] = contenders
    if questions:
        longest = max(len(session.prompt(question, config.new_tokens, with_llm=True)) for question in questions)
        model = session.config.slm or session.config.pair
        for batch in config.batches:
            workloads[model, batch, longest] = pair_contenders(session, config, batch, questions)
    if not workloads:
        raise S2TError("nothing to time: name a --slm-shape, or ask --questions of the pair")
    meter, rows = Meter(dict.fromkeys(workloads, len(names) * (config.repeats + 1)), progress), []
    for about, contenders in workloads.items():
        chosen = {name: run for name, run in contenders.items() if name in names}
        rows += table(*about, time_contenders(chosen, config.repeats, meter.part(about)))
    return rows
