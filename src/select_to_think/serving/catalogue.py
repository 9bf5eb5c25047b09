"""The models of the API: one id for each method that the pair can serve, and the bare pair with its default method.

Non-goals: running them.
"""

from __future__ import annotations

import time
from typing import Any

from select_to_think.config import MethodSettings, ServeConfig
from select_to_think.methods import METHODS, Method, find_method
from select_to_think.serving.errors import RequestError
from select_to_think.session import Session
from select_to_think.structures import S2TError
from select_to_think.text import unknown_name
from select_to_think.triggers.table import TRIGGERS

BUDGETS = (0.01, 0.03, 0.05, 0.1, 0.2)  # to choose from where a person chooses


class Catalogue:
    """What a session can serve."""

    def __init__(self, session: Session, serve: ServeConfig, settings: MethodSettings) -> None:
        """Make every method ready, so that what is missing is known now, and nothing is loaded later.

        Raises:
            S2TError: the default method cannot be served.
        """
        self.session, self.settings = session, settings
        self.name = serve.model_name or (session.config.pair if session.folder else session.slm.name)
        self.created = int(time.time())
        self.default = find_method(serve.method)
        self.missing: dict[str, S2TError] = {}  # methods that cannot be served, and why
        for name in METHODS:
            try:
                for role in session.decoder(name, settings).roles.values():
                    session.backend(role.backend)
            except S2TError as error:
                self.missing[name] = error
        if why := self.missing.get(self.listed(self.default)):
            others = ", ".join(name for name in METHODS if name not in self.missing)
            raise S2TError(f"{why}; or take another --method, of {others}") from why
        self.offered = [method for name, method in METHODS.items() if name not in self.missing]
        self.triggers = [name for name in TRIGGERS if self.has_trigger(name)]

    @staticmethod
    def listed(method: Method) -> str:
        """The name under which a method stands in the table: that of maj@8 for any maj@N."""
        return "maj@8" if method.samples > 1 else method.name

    def has_trigger(self, name: str) -> bool:
        """Whether a trigger's threshold is known."""
        try:
            self.session.trigger(name, self.settings.select.trigger_budget)
        except S2TError:
            return False
        return True

    def find(self, model: str | None, method: str | None) -> Method:
        """The method of a request that names a model, a method, both or neither.

        Raises:
            RequestError: an unknown name (404 for a model, 400 for a method), or one that cannot be served.
        """
        known = [self.name, *(f"{self.name}:{method.name}" for method in self.offered)]
        found = self.default
        if model is not None and model != self.name:
            pair, _, named = model.rpartition(":")
            if pair != self.name:
                raise not_found(model, known)
            try:
                found = find_method(named)
            except S2TError:
                raise not_found(model, known) from None
        if method is not None:
            found = find_method(method)
        if error := self.missing.get(self.listed(found)):
            raise RequestError(f"{found.name} is not served here: {error}", param="model", code="method_missing")
        return found

    def models(self) -> list[dict[str, Any]]:
        """The entries of /v1/models, the bare pair first."""
        return [self.entry(self.name, self.default), *(self.entry(f"{self.name}:{m.name}", m) for m in self.offered)]

    def entry(self, name: str, method: Method) -> dict[str, Any]:
        """One model as OpenAI lists it, and in `s2t` what is to be known of its method."""
        missing = self.session.incomparable_llm if method.asks_llm else None
        compares = method.asks_llm and missing is None
        triggers = [each for each in self.triggers if compares or not TRIGGERS[each].needs_llm]
        own = {
            "method": method.name,
            "help": method.help,
            "asks_llm": method.asks_llm,
            "draws": method.draws,
            "mentor": method.mentor,
            "trigger": method.trigger and method.trigger_name(self.settings.select, missing),
            "triggers": triggers if method.trigger else [],
            "budgets": list(BUDGETS) if method.trigger else [],
            "trigger_budget": self.settings.select.trigger_budget if method.trigger else None,
            "candidates": self.settings.select.candidates if method.trigger else None,
            "consult_rate": self.settings.mentor.consult_rate if method.mentor else None,
            "uses": method.uses,
            "chat_template": bool(self.session.slm.tokenizer.chat_template),
            "translated": method.asks_llm and not self.session.shares_vocabulary,
            "llm_fingerprint": self.session.llm.fingerprint if method.asks_llm else None,
            "default": method.name == self.default.name,
        }
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "select-to-think",
            "max_model_len": self.session.room(with_llm=method.asks_llm),
            "s2t": own,
        }


def not_found(model: str, known: list[str]) -> RequestError:
    """The error of a model that does not exist."""
    return RequestError(str(unknown_name("model", model, known)), 404, param="model", code="model_not_found")
