"""What a pair consists of: two models and what was trained and calibrated for them, each loaded when first needed; and
how a question is put to them.

`s2t-local` and `distill` never load an LLM, because nothing here loads more than it is asked for.

Non-goals: decoding (`session.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from select_to_think.config import PairConfig, RuntimeConfig, SelectConfig
from select_to_think.contexts.remote.detection import Reached, reach
from select_to_think.contexts.remote.servers import inexact
from select_to_think.methods import find_method
from select_to_think.models.distilled import check_distilled
from select_to_think.models.exported import with_exported
from select_to_think.models.gguf import SUFFIX, load_gguf
from select_to_think.models.loading import LoadedModel, load_model
from select_to_think.models.prompting import Conversation, prompt_ids
from select_to_think.models.remote import Model, is_address
from select_to_think.models.scorer import Scorer, load_scorer
from select_to_think.models.spelling import Spelling
from select_to_think.models.translation import Translation
from select_to_think.models.vocabulary import reserved_ids, share_vocabulary, stop_ids
from select_to_think.models.words import Words, published_words, word_boundaries
from select_to_think.pairs import bundled_folder, bundled_model, bundled_notes
from select_to_think.policies.candidates import QUERY_TOKENS
from select_to_think.structures import PromptTooLong, S2TError
from select_to_think.triggers.calibration import CALIBRATION, Calibration

Question = str | Conversation | Sequence[int]  # or the token ids of a whole prompt

FLAGS = {  # what makes an artefact -> the flag that names it
    "s2t calibrate": "--calibration",
    "s2t train scorer": "--scorer",
    "s2t train trigger": "--trigger-head",
    "s2t train distill": "--distill",
    "s2t train verifier": "--verifier",
}


class Artefacts:
    """Models, adapters and thresholds of the pair that a configuration names."""

    def __init__(
        self,
        config: PairConfig = PairConfig(),
        *,
        slm: LoadedModel | None = None,
        llm: LoadedModel | None = None,
        runtime: RuntimeConfig = RuntimeConfig(),
    ) -> None:
        """Stand for the pair that `config` names; models given as objects take its place."""
        config = config if slm is not None else with_exported(config)
        self.config, self.runtime_config = config, runtime
        self.folder = None if slm is not None or config.slm is not None else bundled_folder(config.pair)
        self._slm, self._llm = slm, llm
        self._calibration: Calibration | None = None
        self._scorers: dict[Path, Scorer] = {}

    def _load(self, role: str, given: str | None) -> LoadedModel:
        """Load the model of a role by its name, or from the bundled pair."""
        path, name = given, given
        if given is None:
            if self.folder is None:
                raise S2TError(f"this needs an {role.upper()}: give one with --{role} NAME_OR_PATH")
            path, name = str(bundled_model(self.config.pair, role)), f"{self.config.pair}/{role}"
        assert path is not None
        config = self.config
        if path.endswith(SUFFIX):
            return load_gguf(path, device=config.device, name=name)
        # what is bundled is small, and its thresholds and results are of float32
        dtype = "float32" if given is None and config.dtype == "auto" else config.dtype
        return load_model(
            path, device=config.device, dtype=dtype, trust_remote_code=config.trust_remote_code, name=name
        )

    @cached_property
    def slm(self) -> LoadedModel:
        """The small model."""
        return self._slm or self._load("slm", self.config.slm)

    @cached_property
    def reached(self) -> Reached | None:
        """The server that runs the LLM, where `config` names one."""
        if self._llm is not None or not is_address(self.config.llm):
            return None
        if "," in str(self.config.llm):
            raise S2TError("several servers share the work of several workers: add --ray, or name one with --llm")
        return reach(self.config, self.runtime_config, self.slm)

    @cached_property
    def llm(self) -> Model:
        """The large model."""
        return self._llm or (self.reached.model if self.reached else self._load("llm", self.config.llm))

    @property
    def local_llm(self) -> LoadedModel:
        """The large model with its weights. Raises S2TError where a server has them."""
        if isinstance(self.llm, LoadedModel):
            return self.llm
        raise S2TError("this needs the weights of the LLM, which a server does not give: name a model with --llm")

    @property
    def inexact_llm(self) -> str | None:
        """What is missing, and what would do, where a server does not tell the LLM's exact log-probabilities."""
        reached = self.reached
        return None if reached is None or reached.server.capability == "exact_ids" else inexact(reached.server)

    @property
    def guesses(self) -> bool:
        """Whether the SLM goes on while the LLM selects."""
        return self.runtime_config.llm_guess and self.reached is not None and self.shares_vocabulary

    @property
    def incomparable_llm(self) -> str | None:
        """What is missing where the two models' distributions cannot be compared."""
        return self.inexact_llm if self.shares_vocabulary else "an LLM with the SLM's vocabulary"

    @cached_property
    def shares_vocabulary(self) -> bool:
        """Whether the LLM has the SLM's tokens; if not, `policies/interpreter.py` stands between them."""
        return share_vocabulary(self.slm, self.llm)

    @cached_property
    def translation(self) -> Translation:
        """Between the SLM's vocabulary and the LLM's."""
        return Translation(Spelling(self.slm), Spelling(self.llm))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return stop_ids(self.slm)

    @cached_property
    def words(self) -> Words:
        """Where words begin."""
        return word_boundaries(self.slm)

    @cached_property
    def published_words(self) -> Words:
        """Where words begin in the published code."""
        return published_words(self.slm)

    @cached_property
    def notes(self) -> list[str]:
        """What must be said wherever numbers of this pair are shown."""
        path = None if self.folder is None else bundled_notes(self.config.pair)
        return list(json.loads(path.read_text(encoding="utf-8"))) if path is not None and path.exists() else []

    @property
    def calibration(self) -> Calibration:
        """Thresholds of the triggers. Raises S2TError if there are none for this SLM."""
        if self._calibration is None:
            path = self.artefact(self.config.calibration, CALIBRATION, "s2t calibrate")
            self._calibration = Calibration.load(path)
        if self._calibration.slm_fingerprint != self.slm.fingerprint:
            raise S2TError(f"the calibration was made for another SLM than {self.slm.name}: run `s2t calibrate` again")
        return self._calibration

    @calibration.setter
    def calibration(self, calibration: Calibration) -> None:
        self._calibration = calibration

    @contextmanager
    def using(self, calibration: Calibration, **folders: str) -> Iterator[None]:
        """Within this, these thresholds, and these folders in place of the configuration's (`scorer`, `distill`)."""
        before = self.config, self._calibration
        self.config = replace(self.config, **cast(dict[str, Any], folders))
        self._calibration = calibration
        try:
            yield
        finally:
            self.config, self._calibration = before

    def thresholds(self, coupled: Scorer | None) -> Calibration:
        """The calibration of the model that proposes: the SLM, or with a coupled scorer the SLM with its adapter on.

        Raises:
            S2TError: there is none for this model.
        """
        if coupled is None:
            return self.calibration
        path = coupled.path / CALIBRATION
        remedy = f"run `s2t calibrate --scorer {coupled.path}`"
        if not path.exists():
            raise S2TError(f"the coupled scorer in {coupled.path} has no thresholds for its adapted SLM: {remedy}")
        calibration = Calibration.load(path)
        if calibration.slm_fingerprint != self.slm.fingerprint:
            raise S2TError(f"{path} was made for another SLM than {self.slm.name}: {remedy}")
        return calibration

    def artefact(self, given: str | None, shipped: str, command: str) -> Path:
        """The path of something trained or calibrated: the given one, or the one that came with the pair."""
        if given is not None:
            return Path(given)
        if self.folder is None:
            raise S2TError(
                f"{shipped} is missing for this pair: run `{command}` with these models and name its output with "
                f"{FLAGS[command]}"
            )
        return self.folder / shipped

    def scorer(self, select: SelectConfig) -> Scorer:
        """The scorer of a mode and score. Raises S2TError if the pair has none of them, or a damaged one."""
        wanted = f"{select.scorer_mode}-{select.score}"
        path = self.artefact(self.config.scorer, f"scorers/{wanted}", "s2t train scorer")
        if self.config.scorer is None and not path.exists() and path.parent.exists():
            others = ", ".join(sorted(each.name for each in path.parent.iterdir() if each.is_dir()))
            raise S2TError(f"the pair has no scorer {wanted} (mode-score): choose from {others}, or train one")
        if path not in self._scorers:
            self._scorers[path] = load_scorer(path, self.slm)
        return self._scorers[path]

    def coupled(self, method: str, select: SelectConfig) -> Scorer | None:
        """The scorer of a method whose proposals are those of the SLM with the scorer's adapter on."""
        if find_method(method).uses != "scorer":
            return None
        scorer = self.scorer(select)
        return scorer if scorer.mode == "coupled" else None

    @property
    def verifier_folder(self) -> Path:
        """The folder of the verifier of mentor-mlp."""
        return self.artefact(self.config.verifier, "verifier", "s2t train verifier")

    @property
    def distill_folder(self) -> Path:
        """The folder of the distilled SLM. Raises S2TError if it is none for this SLM."""
        folder = self.artefact(self.config.distill, "distill/kd", "s2t train distill")
        check_distilled(folder, self.slm)
        return folder

    @property
    def ordinary_vocabulary(self) -> int:
        """Number of tokens that may be emitted."""
        return self.slm.vocab_size - len(reserved_ids(self.slm))

    @property
    def shortened(self) -> str:
        """Why the context is shorter than the model's own, for messages; nothing where it is not."""
        if self.slm.max_positions == self.slm.model.config.get_text_config().max_position_embeddings:
            return ""
        return " (behind them the rotary factors change for all rows of a forward at once)"

    def room(self, *, with_llm: bool) -> int:
        """Tokens of a prompt and its answer that fit the context."""
        return min(model.max_positions for model in ((self.slm, self.llm) if with_llm else (self.slm,)))

    def prompt(self, question: Question, max_new_tokens: int, *, with_llm: bool) -> list[int]:
        """Token ids of the prompt.

        Raises:
            PromptTooLong: it and the longest answer do not fit the context.
            S2TError: it is empty, or of ids that the SLM does not have.
        """
        ids = self.slm_prompt(question)
        if not ids:
            raise S2TError("the question is empty: write one")
        size = self.slm.model.config.get_text_config().vocab_size
        if min(ids) < 0 or max(ids) >= size:
            raise S2TError(f"the prompt has token ids outside the SLM's vocabulary of {size}: give its own")
        room = self.room(with_llm=with_llm)
        longest = max(len(ids), len(self.llm_prompt(question))) if with_llm and not self.shares_vocabulary else len(ids)
        if longest + max_new_tokens > room:
            raise PromptTooLong(
                f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the context of {room} tokens"
                f"{self.shortened}: shorten the question ({self.asked(question)[:40]!r}...) or lower --max-new-tokens",
                longest,
            )
        return ids

    def room_for(
        self, question: Question, prompt: Sequence[int], new: int, candidates: int = 0, *, with_llm: bool = True
    ) -> int:
        """Tokens that the contexts of an answer of `new` tokens may come to hold, its candidates included."""
        if not with_llm or self.shares_vocabulary:
            return len(prompt) + new + 2 * candidates
        longest = max(len(prompt), len(self.llm_prompt(question)))  # the same answer may be longer in the LLM's tokens
        return longest + min(2 * new, self.llm.max_positions - longest) + QUERY_TOKENS * candidates

    def assert_llm_takes_bias(self, method: str) -> None:
        """Raise S2TError for an LLM that no bias can be put on; `method` asks it."""
        if self.reached is not None or not self.shares_vocabulary:
            where = "behind a server" if self.reached is not None else "with other tokens"
            raise S2TError(f"{method} asks an LLM {where}: leave logit_bias out")

    def asked(self, question: Question) -> str:
        """What the user asks, as text."""
        if isinstance(question, Conversation):
            return question.question
        return question if isinstance(question, str) else self.text(question)

    def slm_prompt(self, question: Question) -> list[int]:
        """Token ids of the prompt, of any length."""
        if isinstance(question, Conversation):
            return [*prompt_ids(self.slm, question), *question.answer_tokens]
        return prompt_ids(self.slm, question) if isinstance(question, str) else list(question)

    def llm_prompt(self, question: Question) -> list[int]:
        """Token ids of the prompt in the LLM's own template and vocabulary."""
        if isinstance(question, Conversation):
            return [*prompt_ids(self.llm, question), *self.translation.to_llm(question.answer_tokens)]
        return prompt_ids(self.llm, question) if isinstance(question, str) else self.translation.to_llm(question)

    def text(self, tokens: Sequence[int], stop: Sequence[str] = (), begun: int = 0) -> str:
        """The text of tokens, without special ones, up to the first of the strings `stop` behind `begun` tokens."""
        text = str(self.slm.tokenizer.decode(list(tokens), skip_special_tokens=True))
        start = len(self.text(tokens[:begun])) if begun and stop else 0
        return text[: min((at for at in (text.find(string, start) for string in stop) if at >= 0), default=None)]
