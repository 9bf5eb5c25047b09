"""The model class `s2t` of lm-evaluation-harness (the extra `lm-eval`).

`generate_until` is answered by the method, batched over all requests. `loglikelihood` and `loglikelihood_rolling` are
answered by the SLM alone, whatever the method: methods decide how an answer is written, and a given text has no such
steps. What it all cost is logged and stands in the results, under `config.usage`.

Non-goals: the harness's command line (`cli/lm_eval.py`), its tasks and metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import cuda

from select_to_think.config import DecodeConfig, MentorConfig, MethodSettings, PairConfig, SelectConfig
from select_to_think.evaluation.settings import selection
from select_to_think.methods import METHODS, find_method
from select_to_think.presets import preset_values
from select_to_think.session import Session
from select_to_think.structures import Counts
from select_to_think.text import unknown_name

LONGEST_ANSWER = 256  # of a task that does not say, as for the harness's own models
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
logger = logging.getLogger("lm_eval.select_to_think")  # below the harness, whose verbosity it follows


@dataclass
class Usage:
    """What the requests cost so far."""

    answers: int = 0
    scored_texts: int = 0
    shortened: int = 0  # answers with less room than the task allows, because the prompt fills the context
    unanswered: int = 0  # prompts without room for a single token: answered with nothing
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True)
class Job:
    """What requests must share to be answered in one batch."""

    max_new_tokens: int
    stop: tuple[str, ...]
    sampling: tuple[tuple[str, Any], ...]
    repetition: int  # of one and the same request: each gets random numbers of its own


@register_model("s2t")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A session as a model of the harness.

    `--model_args` takes `method` and every field of the configurations of the pair, of decoding, selection and
    mentoring by its name, and `preset`: `pair=demo,method=s2t,trigger_budget=0.05,max_batch=64`. `--batch_size` above
    1 and `--device` are understood too.
    """

    def __init__(
        self,
        method: str = "s2t-local",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if device is not None and (cuda.is_available() or not device.startswith("cuda")):  # its default is cuda:0
            settings.setdefault("device", device)
        if str(batch_size).isdecimal() and int(batch_size or 0) > 1:  # the harness's default is 1
            settings.setdefault("max_batch", int(batch_size or 0))
        pair, self.decode, self.select, self.mentor = configurations(settings)
        self.longest_answer = self.decode.max_new_tokens if "max_new_tokens" in settings else LONGEST_ANSWER
        self.method, self.record = method, find_method(method)
        self.session = Session.load(pair)
        self.session.decoder(method, MethodSettings(self.decode, self.select, self.mentor))  # mistakes show at once
        self.tokenizer = self.session.slm.tokenizer
        self.templated = False
        self.usage = Usage()

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; it also stands before a text without a context."""
        return int(self.tokenizer.eos_token_id)

    @property
    def tokenizer_name(self) -> str:
        """What tells this tokenizer and its template apart in the harness's caches."""
        return f"{self.session.slm.name}-{self.session.slm.fingerprint}".replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation (`--apply_chat_template`)."""
        self.templated = True
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids. A chat template writes its own special tokens, so none is added behind its back."""
        begun = bool(self.tokenizer.bos_token) and string.startswith(self.tokenizer.bos_token)
        wanted = not (self.templated or begun) if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer(string, add_special_tokens=wanted).input_ids)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer each (context, settings) request; those with the same settings are decoded together."""
        jobs: dict[Job, list[int]] = {}
        prompts: list[list[int]] = []
        seen: dict[str, int] = {}
        for index, (context, given) in enumerate(request.args for request in requests):
            prompts.append(self.tok_encode(context))
            repetition = seen[context] = seen.get(context, -1) + 1
            job = self.job(given, len(prompts[-1]), repetition)
            if job is not None:
                jobs.setdefault(job, []).append(index)
        answers = [""] * len(requests)
        for job, indices in jobs.items():
            sampling = dict(job.sampling)
            decode = replace(
                self.decode, max_new_tokens=job.max_new_tokens, seed=self.decode.seed + job.repetition, **sampling
            )
            batch = [prompts[index] for index in indices]
            found = self.session.stream(batch, self.method, decode, self.select, self.mentor, stop=job.stop)
            for place, generation in found:
                request = requests[indices[place]]
                answers[indices[place]] = generation.text
                self.usage.counts.add(generation.counts)
                self.cache_hook.add_partial("generate_until", request.args, generation.text)
        self.usage.answers += len(requests)
        self.log_usage()
        return answers

    def job(self, given: Mapping[str, Any], prompt_tokens: int, repetition: int) -> Job | None:
        """How a request is decoded; None if its prompt leaves no room for an answer."""
        wanted = dict(normalize_gen_kwargs(dict(given), self.longest_answer))
        free = self.session.room(with_llm=self.record.asks_llm) - prompt_tokens
        if free < 1 or prompt_tokens < 1:
            self.usage.unanswered += 1
            return None
        self.usage.shortened += free < wanted["max_gen_toks"]
        stop = tuple(string for string in wanted["until"] if string)
        sampling: tuple[tuple[str, Any], ...] = ()
        if wanted.get("do_sample") and self.record.build is METHODS["sample"].build:
            sampling = tuple((name, wanted[name]) for name in SAMPLING if wanted.get(name) is not None)
        return Job(min(free, wanted["max_gen_toks"]), stop, sampling, repetition)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether it is what the SLM writes greedily) of each continuation, by the SLM.

        Where a context and its continuation exceed the SLM's context, the context loses its beginning.
        """
        room = self.session.room(with_llm=False)
        contexts = [context[-max(1, room - len(text)) :] for _, context, text in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        texts = [text for *_, text in requests]
        for index, scored in self.session.score(contexts, texts, self.decode):
            greedy = all(step.token == step.greedy_token for step in scored.steps)
            found[index] = scored.logprob, greedy
            self.usage.counts.add(scored.counts)
            key = requests[index][0]
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[index])
        self.usage.scored_texts += len(requests)
        self.log_usage()
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text by the SLM, in windows of its context that do not overlap."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for owner, (text,) in enumerate(request.args for request in requests):
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.session.room(with_llm=False) - 1,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def log_usage(self) -> None:
        """Say what everything cost so far."""
        usage, cost = self.usage, self.usage.counts
        logger.info(
            "s2t usage: %d answers by %s, %d texts scored by the SLM; SLM %d tokens in %d forwards; "
            "LLM %d tokens in %d forwards, %d tokens written",
            *(usage.answers, self.method, usage.scored_texts),
            *(cost.slm_tokens_processed, cost.slm_forwards),
            *(cost.llm_tokens_processed, cost.llm_forwards, cost.llm_tokens_generated),
        )
        if usage.shortened or usage.unanswered:
            logger.warning(
                "the context is too short: %d answers had less room than the task allows, %d prompts were not answered",
                *(usage.shortened, usage.unanswered),
            )

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into the `config` of its results."""
        select = selection(self.session, [self.method], self.select)
        settings = {"decode": asdict(self.decode), "select": asdict(select)}
        return {"method": self.method, "slm": self.session.slm.fingerprint, **settings, "usage": asdict(self.usage)}


def configurations(settings: Mapping[str, Any]) -> tuple[PairConfig, DecodeConfig, SelectConfig, MentorConfig]:
    """The settings, behind those of a preset, sorted into configurations by their names.

    Raises S2TError for an unknown name or a wrong type.
    """
    classes = (PairConfig, DecodeConfig, SelectConfig, MentorConfig)
    known = {spec.name: (cls, spec.default) for cls in classes for spec in fields(cls)}
    if (preset := settings.get("preset")) is not None:
        published = {name: value for name, value in preset_values(str(preset)).items() if name in known}
        settings = {**published, **{name: value for name, value in settings.items() if name != "preset"}}
    sorted_out: dict[type, dict[str, Any]] = {cls: {} for cls in classes}
    for name, value in settings.items():
        if name not in known:
            raise unknown_name("model argument", name, ["method", "preset", *known])
        cls, default = known[name]
        textual = default is None or isinstance(default, str)  # the harness makes numbers of texts as it sees fit
        sorted_out[cls][name] = str(value) if textual and value is not None else value
    pair, decode, select, mentor = (cls(**sorted_out[cls]) for cls in classes)
    return pair, decode, select, mentor  # type: ignore[return-value]
