"""The program `s2t`, also as `python -m select_to_think`: prepares the process, then hands over to `cli/app.py`.

Non-goals: anything that takes time to import, so that Ctrl-C is answered from the first moment.
"""

import os
import sys
from io import TextIOWrapper

INTERRUPTED = 130


def main() -> int:
    """Run `s2t` with the arguments of the process; returns the exit code."""
    try:
        occupy_descriptors()
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # of an encoding that lacks a sign
        from select_to_think.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def occupy_descriptors() -> None:
    """Open stdin, stdout and stderr on nothing where they are closed: no file may take their numbers."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (it stays open)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (it stays open)


if __name__ == "__main__":
    sys.exit(main())
