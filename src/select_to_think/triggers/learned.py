"""The learned trigger: a small head on the SLM's last hidden state that predicts the KL trigger. Needs no LLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from select_to_think.triggers.base import Trigger, TriggerKind
from select_to_think.triggers.calibration import exceeded

if TYPE_CHECKING:
    from select_to_think.artefacts import Artefacts


def fit(pair: Artefacts, budget: float) -> Trigger:
    """The logit of the pair's head for "this is a divergence point" (the distilled trigger of arXiv 2604.26940), with
    the threshold of its own training."""
    from select_to_think.models.trigger_head import load_trigger_head

    path = pair.artefact(pair.config.trigger_head, "trigger", "s2t train trigger")
    head = load_trigger_head(path, pair.slm)
    return Trigger(LEARNED, exceeded(head.quantiles, budget), lambda slm, llm, _: head(slm.hidden))


LEARNED = TriggerKind("learned", "a head on the SLM's hidden state, trained to predict kl", hidden=True, fit=fit)
