"""Which means of confining programs work on this machine."""

from __future__ import annotations

import shutil
from functools import cache

import pytest

from select_to_think.evaluation.grading import sandbox
from select_to_think.structures import S2TError

MEANS, REFUSALS = sandbox._probed()
needs_confinement = pytest.mark.skipif(MEANS is None, reason="; ".join(REFUSALS))


@cache
def missing(means: sandbox.Means) -> str:
    """Why a means does not work here; empty if it does."""
    if means == "bubblewrap" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    try:
        sandbox.run(sandbox.Task("def f(): pass", "f", "def check(f): f()"), means)
    except S2TError as error:
        return str(error)
    return ""


needs_landlock = pytest.mark.skipif(bool(missing("landlock")), reason=missing("landlock"))
