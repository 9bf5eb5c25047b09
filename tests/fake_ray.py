"""Workers without models, for processes of a cluster: they import this, so it imports nothing heavy."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from fake_session import FakeSession
from select_to_think.integrations.ray_workers import Holder
from select_to_think.structures import ModelUnavailable, PromptTooLong


class Slow(FakeSession):
    """Takes its time, so that there is some to kill it in; some questions kill it, or are too much for it."""

    def answer(self, question: str, method: str, seed: int = 0) -> Any:
        time.sleep(0.02)
        if "deadly" in question:
            os.kill(os.getpid(), signal.SIGKILL)
        if "wrong" in question:
            raise PromptTooLong("this question is wrong: ask another", 3)
        if "away" in question and self.config.llm == "http://a":
            raise ModelUnavailable("the server is away")
        return super().answer(question, method, seed)


class FakeHolder(Holder):
    """Holds no models, and tells its process by a file in the folder that stands for those of the distilled SLM."""

    def loaded(self) -> Any:
        if self.session is None:
            (Path(str(self.pair.distill)) / str(os.getpid())).touch()
            self.session = Slow(fingerprint=str(self.pair.slm))
            self.session.config = self.pair
        return self.session
