"""Every flag of every command changes what the library is asked: none is read and dropped on the way."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from typer.models import OptionInfo

import select_to_think
from select_to_think.cli import app
from select_to_think.cli.options import flatten
from select_to_think.evaluation.items import Item
from select_to_think.structures import S2TError

ITEM = Item("i", "Why?", "so")
LIBRARY = {  # what a command ends in; it is not entered
    "advise": ["advice.advise.advise"],
    "eval": ["evaluation.runner.evaluate"],
    "ablate": ["evaluation.ablation.ablate"],
    "measure": ["evaluation.measure.measure"],
    "calibrate": ["evaluation.calibrate.calibrate", "evaluation.calibrate.calibrate_coupled"],
    "collect": ["collect.collect.collect"],
    "train scorer": ["training.scorer.train_scorer"],
    "train trigger": ["training.trigger.train_trigger"],
    "train distill": ["training.distill.train_distill"],
    "train verifier": ["training.verifier.train_verifier", "training.verifier.take_published"],
    "train push": ["training.card.push"],
    "export": ["training.export.export"],
    "bench decode": ["evaluation.bench.bench_decode"],
    "bench train": ["training.bench.bench_train", "training.bench.bench_shape"],
    "bench serve": ["serving.bench.bench_serve"],
    "bench remote": ["evaluation.bench_remote.bench_remote"],
    "generate": ["session.Session.generate"],
    "serve": ["serving.server.serve_apart"],
}
NEEDED = {  # flags without which a command does not begin
    "generate": "Why?",
    "train push": "FOLDER --to me/it",
    "export": "--format vllm",
    "bench remote": "--llm http://127.0.0.1:9/v1",
    **dict.fromkeys(("train scorer", "train trigger", "train distill"), "--collection FOLDER"),
}
BESIDE = {  # flags that say something only beside others
    **dict.fromkeys(("ray_workers", "ray_cpus", "ray_gpus", "ray_placement"), "--ray"),
    "generate limit": "--data FILE.jsonl",
    "data_dir": "--benchmarks gsm8k",
    "train_items": "--train",
    "train_data": "--train",
    "verifier_rule": "--order ab",
    "train verifier published": "--preset mentorcollab-paper",
    "slm": "--data FILE.jsonl",
    **dict.fromkeys(("generate slm", "train scorer slm", "train trigger slm", "train distill slm", "serve slm"), ""),
    **dict.fromkeys(("export slm", "bench train slm", "bench decode slm", "bench remote slm"), ""),
    **{f"bench train {name}": "--shape qwen2.5-0.5b" for name in ("tokens", "groups", "group_size", "plain_rows")},
}
VALUES = {  # where the type does not tell a value
    "pair": "demo-x",
    "shard": "1/2",
    "seeds": "3,4",
    "allow_code_execution": "unconfined",
    "baseline": "s2t",
    "methods": "maj@4",
    "names": "llm",
    "batch": "3",
    "parts": "soak",
    "questions": "60",
    "llm": "http://127.0.0.1:8/v1",
    "host": "0.0.0.0",
    "consult_rates": "0.5",
    "segment_lengths": "3",
    "latency_ms": "7",
    "template": "{question}!",
    "verifier_template": "{question} {text} {a} {b}",
    "shape": "qwen2.5-0.5b",
    "trigger_budget": "0.07",
    "budgets": "0.07",
    "order": "ab",
    "batch_prompts": "32",
    "group_size": "3",
}


class Served(SimpleNamespace):
    name = "it"

    def run(self, bound: Any) -> None: ...

    def close(self) -> None: ...


SOURCE = Path(select_to_think.__file__).parent
IMPORTING = [
    ".".join(path.with_suffix("").parts)
    for package in ("advice", "analysis", "cli", "collect", "evaluation", "serving", "training")
    for path in (path.relative_to(SOURCE) for path in sorted((SOURCE / package).rglob("*.py")))
    if path.name not in ("__init__.py", "sandbox_child.py", "harness.py")
]


class Stop(S2TError):
    """The library has been asked."""


class Asked:
    """What the library was asked, and by whom."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.patch = monkeypatch

    def instead(self, name: str, answer: Any = None, *, last: bool = False) -> None:
        """Let a function of the library only note its arguments."""

        def noted(*args: Any, **settings: Any) -> Any:
            self.said.append(f"{name} {[told(each) for each in args]} { {k: told(v) for k, v in settings.items()} }")
            if last:
                raise Stop("asked")
            return answer(*args, **settings) if callable(answer) else answer

        self.patch.setattr(f"select_to_think.{name}", noted)


def told(value: Any) -> Any:
    """A value without its address."""
    if isinstance(value, Iterator):
        return list(value)
    if callable(value) and not isinstance(value, type):
        return getattr(value, "__name__", type(value).__name__)
    return value


def everything_noted(asked: Asked, command: str) -> None:
    model = SimpleNamespace(name="a model", fingerprint="its own")

    @contextlib.contextmanager
    def workers(*_: Any, **__: Any) -> Iterator[Any]:
        yield SimpleNamespace(slots=(), ray=SimpleNamespace(nodes=list), slm=model, llm=model)

    class Loaded:
        slm = llm = local_llm = model
        folder = Path("here")

        def generate(self, *args: Any) -> None:
            asked.said.append(f"generate {args}")
            raise Stop("asked")

        def __repr__(self) -> str:
            return "a session"

    for name in IMPORTING:  # now, for what is first imported meanwhile keeps the stand-ins for good
        importlib.import_module(f"select_to_think.{name}")
    asked.instead("session.Session.load", lambda *_, **__: Loaded())
    asked.instead("evaluation.fitting.only_fitting", lambda _, items, *__, **___: (items, []))
    asked.instead("evaluation.items.load_items", [ITEM])
    asked.instead("evaluation.items.load_pair_split", [ITEM])
    asked.instead("evaluation.benchmarks.load", [ITEM])
    asked.instead("evaluation.benchmarks.ask", lambda items, *_, **__: ["Why now?"] * len(items))
    asked.instead("collect.records.read_trajectories", lambda folder: iter([folder]))
    asked.instead("collect.records.read_manifest", {"fingerprints": {"slm": "its own"}})
    asked.instead("collect.records.question_keys", lambda folder: [str(folder)])
    asked.instead("files.make_room")
    asked.instead("cli.data.connected", workers)
    for name in (
        "catalogue.Catalogue",
        "engine.Engine",
        "app.application",
        "server.Server",
        "server.bind",
        "server.listen",
    ):
        asked.instead(f"serving.{name}", lambda *_, **__: Served())
    asked.instead("serving.server.address", "there")
    asked.instead("serving.access.ApiKeys.load", SimpleNamespace(digests=()))
    for name in LIBRARY[command]:
        asked.instead(name, last=True)
    if command == "serve":
        asked.instead("serving.server.serve_apart", lambda _, answer, __: answer("it"))


def flags(command: str) -> list[inspect.Parameter]:
    found = (each for each in flatten(app.COMMANDS[command])[1] if each.name != "preset")
    return [each for each in found if isinstance(get_args(each.annotation)[1], OptionInfo)]


def words_of(parameter: inspect.Parameter, name: str) -> list[str]:
    """The flag with a value that is not its default."""
    kind, option = get_args(parameter.annotation)[:2]
    on, _, off = name.partition("/")
    if get_origin(kind) in (Union, type(int | None)):
        kind = next(each for each in get_args(kind) if each is not type(None))
    if kind is bool:
        return [off if parameter.default else on]
    if parameter.name in VALUES:
        value: Any = VALUES[parameter.name]
    elif option.autocompletion is not None:
        known = option.autocompletion("")
        value = next(name for name in known if name != parameter.default)
    elif get_origin(kind) is Literal:
        value = next(name for name in get_args(kind) if name != parameter.default)
    elif kind is int:
        value = (parameter.default or 1) + 1
    elif kind is float:
        value = 0.5 if parameter.default != 0.5 else 0.25
    elif kind is Path or kind == list[Path]:
        value = "elsewhere"
    else:
        value = "something"
    return [on, str(value)]


def ask(command: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    with monkeypatch.context() as patch:
        asked = Asked(patch)
        everything_noted(asked, command)
        code = app.main([*command.split(), *words])
    assert code in (0, 2)
    return asked.said


@pytest.mark.parametrize("command", LIBRARY)
def test_every_flag_arrives(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = NEEDED.get(command, "").split()
    offered = flags(command)
    if any(parameter.name == "out" for parameter in offered) and command != "calibrate":
        needed += ["--out", "out"]
    dropped: list[tuple[list[str], str]] = []
    plainly: dict[tuple[str, ...], list[str]] = {}
    for parameter in offered:
        if (command, parameter.name) == ("measure", "out"):
            continue  # says where the result is written, afterwards
        option = get_args(parameter.annotation)[1]
        name = option.default if isinstance(option.default, str) else f"--{parameter.name.replace('_', '-')}"
        beside = BESIDE.get(f"{command} {parameter.name}", BESIDE.get(parameter.name, "")).split()
        base = [*needed, *beside]
        own = words_of(parameter, name)
        if own[0] in base:
            at = base.index(own[0])
            changed = [*base[:at], *own, *base[at + len(own) :]]
        else:
            changed = [*base, *own]
        if (before := plainly.get(tuple(base))) is None:
            before = plainly[tuple(base)] = ask(command, base, monkeypatch)
        capsys.readouterr()
        after, said = ask(command, changed, monkeypatch), capsys.readouterr().err
        if before == after or not ("error: asked" in said or command == "serve"):
            dropped.append((own, said.strip()[-150:]))
    assert not dropped, "\n".join(map(str, dropped))
