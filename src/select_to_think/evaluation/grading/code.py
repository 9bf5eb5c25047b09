"""Programs (HumanEval): find the code in a text, put it into the task, run the task's tests in the sandbox.

The item's `meta` holds `entry_point`, `test` (source that defines `check(candidate)`) and `prompt` (the signature
that a bare function body continues). Code is run only with permission.

Non-goals: other languages, and partial scores.
"""

from __future__ import annotations

import ast
import re

from select_to_think.evaluation.grading import sandbox
from select_to_think.evaluation.grading.base import NOTHING, Context, Extraction, clean
from select_to_think.structures import S2TError

MAX_CODE = 50_000  # characters

_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_STOP = re.compile(r"\n(?=def |class |if __name__|print\(|assert |#|```|<|@|import |from )")
_CODE_LINE = re.compile(r"^(?:from\s+\S+\s+import\b|import\s+\S|def\s+\w|class\s+\w|@\w|async\s+def\s)", re.MULTILINE)


def extract(text: str, context: Context) -> Extraction:
    """Levels: a fenced block that defines the function, the function in running text, a fenced body, a bare body."""
    text = clean(text)
    define = re.compile(
        rf"^[ \t]*(?:async\s+)?def\s+{re.escape(str(context.meta.get('entry_point', '')))}", re.MULTILINE
    )
    blocks = [match[2] for match in _FENCE.finditer(text) if match[1].casefold() in ("", "python", "py", "python3")]
    for block in reversed(blocks):
        if define.search(block):
            return Extraction(_bounded(block), "fenced-function")
    if not blocks and define.search(text) and (start := _CODE_LINE.search(text)):
        return Extraction(_bounded(_longest_program(text[start.start() :])), "function")
    for block in reversed(blocks):
        if block.strip():
            return Extraction(_bounded(_indented(block)), "fenced-body")
    body = _STOP.split("\n" + text, maxsplit=1)[0][1:] if not _STOP.match("\n" + text) else ""
    return Extraction(_bounded(_indented(body)), "body") if body.strip() else NOTHING


def _bounded(code: str) -> str:
    """No longer than `MAX_CODE`; a cut program fails by itself."""
    return code[:MAX_CODE].rstrip() + "\n"


def _indented(body: str) -> str:
    """A function body with the indentation of a function, where the model left it out on all or on the first line."""
    lines = body.strip("\n").splitlines()
    if not lines or lines[0].startswith((" ", "\t")):
        return body.strip("\n")
    rest = [line for line in lines[1:] if line.strip()]
    if rest and all(line.startswith("    ") for line in rest) and not lines[0].rstrip().endswith(":"):
        return "\n".join(["    " + lines[0], *lines[1:]])
    return "\n".join("    " + line if line.strip() else line for line in lines)


def _longest_program(text: str) -> str:
    """The longest beginning of a text, in whole lines, that is Python; prose after the code is cut off this way."""
    lines = text[:MAX_CODE].splitlines()
    for _ in range(50):
        code = "\n".join(lines)
        try:
            ast.parse(code)
        except SyntaxError as error:
            cut = (error.lineno or len(lines)) - 1
            lines = lines[: min(cut, len(lines) - 1)]
        except (ValueError, RecursionError, MemoryError):
            return code
        else:
            return code
    return "\n".join(lines)


def task(extracted: str, context: Context) -> sandbox.Task:
    """The program (the task's prompt and the answer) and its tests, which may use what the prompt defines."""
    meta = context.meta
    if not meta.get("test") or not meta.get("entry_point"):
        raise S2TError("an item of type code needs meta.test and meta.entry_point: check the benchmark file")
    prompt, entry = str(meta.get("prompt", "")), str(meta["entry_point"])
    stub = prompt + ("\n    pass\n\n" if prompt else "")
    # Around a whole function the prompt's imports and helpers stay; its own function is defined anew.
    body = extracted.startswith((" ", "\t"))
    solution = prompt.rstrip("\n") + "\n" + extracted if body else stub + extracted
    return sandbox.Task(solution, entry, f"{stub}{meta['test']}\n")


def compare(extracted: str, answer: str, context: Context) -> tuple[bool, str]:
    """Whether the tests pass; the second value is how the program ended.

    Raises:
        S2TError: without permission to run code, or where it cannot be confined.
    """
    outcome = sandbox.run(task(extracted, context), sandbox.means_for(context.allow_code_execution))
    return outcome.passed, outcome.reason
