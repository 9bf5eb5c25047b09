"""What decides a method's answers: weights, thresholds, scorer and settings, so that a run goes on only with the same.

Non-goals: the batch size and the device, which decide nothing but the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from select_to_think.config import DecodeConfig, EvalSettings, SelectConfig
from select_to_think.policies.table import MENTOR, NEEDS_LLM, default_trigger, parse_method

if TYPE_CHECKING:
    from select_to_think.session import Session

DETERMINISTIC = frozenset({"greedy", "llm", "distill"})  # of the methods without a trigger


def has_trigger(method: str) -> bool:
    """Whether a method asks a trigger at its steps, so that rates of triggered steps mean something."""
    return parse_method(method)[0] in ("takeover", "s2t", "s2t-local")


def trigger_name(method: str, select: SelectConfig, shared_vocabulary: bool = True) -> str:
    """The trigger that a method with one will use."""
    return select.trigger or default_trigger(parse_method(method)[0], shared_vocabulary)


def is_calibrated(method: str, select: SelectConfig) -> bool:
    """Whether a method looks at thresholds of a calibration; the learned trigger brings its own."""
    return has_trigger(method) and trigger_name(method, select) not in ("random", "learned")


def draws(method: str, select: SelectConfig) -> bool:
    """Whether the seed can change a method's answers."""
    if has_trigger(method):
        return trigger_name(method, select) == "random"
    return parse_method(method)[0] not in DETERMINISTIC


def trained_folders(session: Session, method: str, select: SelectConfig) -> list[Path]:
    """The folders of what a method uses that was trained on questions: an SLM, a scorer, a trigger, a verifier."""
    folders = []
    if parse_method(method)[0] == "distill":
        folders.append(session.distill_folder)
    if parse_method(method)[0] == "s2t-local":
        folders.append(Path(session.scorer(select)[0].path))
    if has_trigger(method) and trigger_name(method, select) == "learned":
        folders.append(session.artefact(session.config.trigger_head, "trigger", "s2t train trigger"))
    if method == "mentor-mlp":
        folders.append(session.verifier_folder)
    return folders


def selection(session: Session, methods: Collection[str], select: SelectConfig) -> SelectConfig:
    """The settings by which these methods select: s2t-local goes by the mode and score of its scorer's own folder."""
    if "s2t-local" not in methods:
        return select
    scorer, _ = session.scorer(select)
    return replace(select, scorer_mode=scorer.mode, score=scorer.score)


def decode_settings(decode: DecodeConfig) -> dict[str, Any]:
    """The settings of decoding that can change an answer: the batch size cannot."""
    return {name: value for name, value in asdict(decode).items() if name != "max_batch"}


def method_settings(session: Session, method: str, settings: EvalSettings) -> dict[str, Any]:
    """Everything that decides the answers of one method. Loads only models that the method needs."""
    select = settings.select
    kind, _ = parse_method(method)
    decisive: dict[str, Any] = {
        "slm": session.slm.fingerprint,
        "dtype": str(session.slm.model.dtype),
        "decode": decode_settings(settings.decode),
    }
    if kind in NEEDS_LLM:
        decisive["llm"] = session.llm.fingerprint
    if has_trigger(method):
        name = trigger_name(method, select, kind not in NEEDS_LLM or session.shares_vocabulary)
        decisive["select"] = {**asdict(selection(session, [method], select)), "trigger": name}
        trigger = session.trigger(name, select.trigger_budget, session.coupled(kind, select))
        decisive["threshold"] = repr(trigger.threshold)
    if kind == "distill":
        decisive["distill"] = folder_digest(session.distill_folder)
    if kind == "s2t-local":
        decisive["scorer"] = folder_digest(Path(session.scorer(select)[0].path))
    if kind in MENTOR:
        decisive["mentor"] = asdict(settings.mentor)
    if kind == "mentor-mlp":
        decisive["verifier"] = folder_digest(session.verifier_folder)
    return decisive


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
