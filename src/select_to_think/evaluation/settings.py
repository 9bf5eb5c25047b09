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
from select_to_think.methods import find_method
from select_to_think.triggers.table import find_trigger

if TYPE_CHECKING:
    from select_to_think.session import Session


def trigger_of(method: str, select: SelectConfig) -> str | None:
    """The trigger that a method will use, if it asks one."""
    record = find_method(method)
    return None if record.trigger is None else record.trigger_name(select)


def is_calibrated(method: str, select: SelectConfig) -> bool:
    """Whether a method looks at thresholds of a calibration; others bring their own."""
    trigger = trigger_of(method, select)
    return trigger is not None and find_trigger(trigger).fit is None


def draws(method: str, select: SelectConfig) -> bool:
    """Whether the seed can change a method's answers."""
    return find_method(method).draws or trigger_of(method, select) == "random"


def used_folder(session: Session, method: str, select: SelectConfig) -> Path | None:
    """The folder of what a method uses that was trained on questions: an SLM, a scorer, a verifier."""
    match find_method(method).uses:
        case "scorer":
            return session.scorer(select).path
        case "distill":
            return session.distill_folder
        case "verifier":
            return session.verifier_folder
    return None


def trained_folders(session: Session, method: str, select: SelectConfig) -> list[Path]:
    """The folders of all that a method uses that was trained on questions, its trigger included."""
    folders = [folder] if (folder := used_folder(session, method, select)) else []
    if trigger_of(method, select) == "learned":
        folders.append(session.artefact(session.config.trigger_head, "trigger", "s2t train trigger"))
    return folders


def selection(session: Session, methods: Collection[str], select: SelectConfig) -> SelectConfig:
    """The settings by which these methods select: s2t-local goes by the mode and score of its scorer's own folder."""
    if not any(find_method(method).uses == "scorer" for method in methods):
        return select
    scorer = session.scorer(select)
    return replace(select, scorer_mode=scorer.mode, score=scorer.score)


def decode_settings(decode: DecodeConfig) -> dict[str, Any]:
    """The settings of decoding that can change an answer: the batch size cannot."""
    return {name: value for name, value in asdict(decode).items() if name != "max_batch"}


def fingerprints(session: Session) -> dict[str, str]:
    """Which two models these are. Loads both."""
    return {"slm": session.slm.fingerprint, "llm": session.llm.fingerprint}


def method_settings(session: Session, method: str, settings: EvalSettings) -> dict[str, Any]:
    """Everything that decides the answers of one method. Loads only models that the method needs."""
    select, record = settings.select, find_method(method)
    decisive: dict[str, Any] = {
        "slm": session.slm.fingerprint,
        "dtype": session.slm.dtype,
        "decode": decode_settings(settings.decode),
    }
    if record.asks_llm:
        decisive["llm"] = session.llm.fingerprint
    if record.trigger is not None:
        name = record.trigger_name(select, session.incomparable_llm if record.asks_llm else None)
        decisive["select"] = {**asdict(selection(session, [method], select)), "trigger": name}
        trigger = session.trigger(name, select.trigger_budget, session.coupled(method, select), select.warm_up_steps)
        decisive["threshold"] = repr(trigger.threshold)
    if record.uses is not None:
        folder = used_folder(session, method, select)
        assert folder is not None
        decisive[record.uses] = folder_digest(folder)
    if record.mentor:
        decisive["mentor"] = asdict(settings.mentor)
    return decisive


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
