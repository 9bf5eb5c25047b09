"""Command-line flags made from the dataclasses of `config`, so that a default, its range and its help are written once.

A command takes whole configurations: `def measure(pair: PairConfig, decode: DecodeConfig)`. `flatten` gives it the
signature that typer reads (one flag per field) and puts the configurations together again before the call.

Non-goals: reading files, checking values (the dataclasses do).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from select_to_think.advice.settings import MODES
from select_to_think.checked import Checked
from select_to_think.config import DecodeConfig, MentorConfig, PairConfig, SelectConfig
from select_to_think.methods import METHODS, find_method
from select_to_think.pairs import BUNDLED, bundled_folder
from select_to_think.presets import PRESETS, preset_among
from select_to_think.structures import S2TError
from select_to_think.text import comma_separated
from select_to_think.triggers.table import TRIGGERS, find_trigger

DATA_PANEL = "Data and results"
PANELS = {  # of the help, by name of the configuration
    name: panel
    for panel, names in {
        "Models": "PairConfig",
        "Decoding": "DecodeConfig",
        "Selection": "SelectConfig",
        "Mentor": "MentorConfig",
        "Running": "RuntimeConfig",
        DATA_PANEL: "DataConfig PromptStyle PriceConfig",
        "Collection": "CollectConfig",
        "Training": "ScorerConfig DistillConfig TriggerTrainConfig VerifierTrainConfig ProbeTraining",
        "Advice": "AdviseConfig",
        "Timing": "BenchConfig BenchServeConfig TrainShape",
        "Access": "AccessConfig",
        "Server": "ServeConfig",
        "Cluster": "RayConfig",
    }.items()
    for name in names.split()
}


def apply_preset(context: typer.Context, name: str | None) -> str | None:
    """Make the values of a preset the defaults of the other flags."""
    if name is not None:
        try:
            offered = [str(parameter.name) for parameter in context.command.params]
            values = preset_among(name, offered, "of this command")
        except S2TError as error:
            raise typer.BadParameter(str(error)) from None
        context.default_map = {**(context.default_map or {}), **values}
    return name


PRESET_FLAG = inspect.Parameter(
    "preset",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Definitions of the published code: s2t-paper or mentorcollab-paper. Flags beside it win.",
            callback=apply_preset,
            is_eager=True,
            autocompletion=lambda: list(PRESETS),
        ),
    ],
)

METAVARS: dict[Any, str] = {int: "INT", int | None: "INT", float: "FLOAT", float | None: "FLOAT", Path | None: "PATH"}

TABLES: dict[str, Mapping[str, Any]] = {  # field -> what it names
    "trigger": TRIGGERS,
    "triggers": TRIGGERS,
    "method": METHODS,
    "modes": dict.fromkeys(MODES),
    "pair": BUNDLED,
}
FINDERS: dict[str, Callable[[str], Any]] = {  # flag -> what refuses an unknown name, before anything heavy is imported
    "trigger": find_trigger,
    "triggers": find_trigger,
    "method": find_method,
    "methods": find_method,
    "pair": bundled_folder,
}

Result = TypeVar("Result")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Only:
    """Marks a configuration of which a command uses only some fields; the others keep their defaults.

    `defaults` replaces defaults for this command, where another one suits it better; `presets` says that all that a
    preset sets is among the fields, as far as this command has a use for it.
    """

    names: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
    presets: bool = False


MODELS = ("pair", "slm", "llm", "llm_model", "llm_kind", "llm_tokenizer", "device", "dtype", "trust_remote_code")
Models = Annotated[PairConfig, Only(MODELS)]
CalibratedModels = Annotated[PairConfig, Only((*MODELS, "calibration"))]
Batching = Annotated[DecodeConfig, Only(("max_new_tokens", "max_batch", "seed"))]


def flag_type(hint: Any) -> tuple[Any, tuple[str, ...]]:
    """What typer should parse for a field's type, and the allowed names if it is a `Literal`."""
    if get_origin(hint) is Literal:
        return str, get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        inner, names = flag_type(next(part for part in get_args(hint) if part is not NoneType))
        return inner | None, names
    return hint, ()


def flag(spec: Any, hint: Any, default: Any, panel: str) -> inspect.Parameter:
    """One keyword parameter for typer from one dataclass field. The dataclass itself checks the range."""
    parsed, names = flag_type(hint)
    known = names or TABLES.get(spec.name, ())
    dashed, help = spec.name.replace("_", "-"), spec.metadata["help"]
    option = typer.Option(
        f"--{dashed}/--no-{dashed}" if default is True else f"--{dashed}",
        help=escape(f"{help}{listed(known)}{bounds(spec)}"),
        metavar="" if parsed is bool else "NAME" if names else METAVARS.get(parsed, "TEXT"),
        autocompletion=completing(known) if known else None,
        rich_help_panel=panel,
    )
    return inspect.Parameter(
        spec.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[parsed, option]
    )


def name_option(help: str, table: Iterable[str], **settings: Any) -> Any:
    """A flag of a command whose values are the names of a table, one or several after commas."""
    return typer.Option(help=escape(help + listed(table)), autocompletion=completing(table), **settings)


def listed(names: Iterable[str]) -> str:
    """The names of a table as a help text shows them."""
    return f" [{', '.join(names)}]" if names else ""


def numbers(text: str, kind: type[Number], wanted: str) -> list[Number]:
    """The numbers in a comma-separated list, each once. Raises S2TError for none, and for what is none from 0 on."""
    try:
        found = list(dict.fromkeys(map(kind, comma_separated(text))))
    except ValueError:
        found = []
    if not found or not all(number >= 0 for number in found):
        raise S2TError(f"{wanted}, comma-separated, got {text!r}")
    return found


def completing(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell asks for a name that was begun, or for the last of several after commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


def bounds(spec: Any) -> str:
    """The allowed range of a field as its help text shows it."""
    low, high = spec.metadata["low"], spec.metadata["high"]
    if low is None:
        return ""
    return f" [at least {low:.12g}]" if high is None else f" [{low:.12g} to {high:.12g}]"


def flatten(function: Callable[..., Result]) -> tuple[Callable[..., Result], list[inspect.Parameter]]:
    """A function with one keyword per flag that calls `function` with whole configurations, and what typer reads."""
    configs: dict[str, tuple[type[Checked], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    preset = False
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        hint = parameter.annotation
        cls, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if not (isinstance(cls, type) and issubclass(cls, Checked)):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        only = next((mark for mark in marks if isinstance(mark, Only)), Only())
        offered = [spec for spec in fields(cls) if not only.names or spec.name in only.names]  # type: ignore[arg-type]
        configs[name] = cls, [spec.name for spec in offered]
        preset |= cls in (SelectConfig, MentorConfig) and (not only.names or only.presets)
        types, defaults = get_type_hints(cls), dict(only.defaults)
        parameters += [
            flag(spec, types[spec.name], defaults.get(spec.name, spec.default), PANELS[cls.__name__])
            for spec in offered
        ]
    if preset:
        parameters.append(PRESET_FLAG)

    def call(**values: Any) -> Result:
        values.pop("preset", None)  # it has changed the other defaults
        for name, find in FINDERS.items():
            for each in comma_separated(values.get(name) or ""):
                find(each)
        for name, (cls, names) in configs.items():
            values[name] = cls(**{field: values.pop(field) for field in names})
        return function(**values)

    return call, parameters
