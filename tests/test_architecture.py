"""The cut of the design, checked on the syntax tree.

Imports point one way, only `contexts/` touches caches, nothing unpickles, modules and functions stay short.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "select_to_think"
MODULES = sorted(SOURCE.rglob("*.py"))
RECIPE = sorted((ROOT / "recipe").rglob("*.py"))  # beside the package: it may import all of it, and nothing there it
PACKAGE = "select_to_think"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LONGEST_MODULE = 320
LONGEST_FUNCTION = 60

# Lower layers first: a part may import from its own layer and from those before it. Grading is a low part of its own:
# it knows no models, and majority votes need its extraction.
LAYERS = (
    ("__init__", "structures", "text", "presets", "checked", "config", "files", "grading"),
    ("probability",),
    ("models",),
    ("contexts",),
    ("triggers", "selectors", "verifiers"),
    ("policies",),
    ("methods",),
    ("runs", "runtime", "streams"),
    ("pairs",),
    ("artefacts", "session"),
    ("collect", "training", "evaluation"),
    ("advice",),
    ("analysis", "serving", "integrations"),
    ("cli", "__main__"),
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
PAIRS_MAY_IMPORT = {"__init__", "structures", "text", "pairs"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "scipy"}
TABLES = ("methods", "policies", "triggers", "selectors", "verifiers")  # what help and completion name
LIGHT_PARTS = (*LAYERS[0][:-1], *TABLES, "pairs", "analysis", "cli", "__main__")  # all but grading
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def part_of(path: Path) -> str:
    """The first name below the package: a folder or a module; grading apart."""
    return part_named(path.relative_to(SOURCE).with_suffix("").parts)


def part_named(names: tuple[str, ...]) -> str:
    """The part that owns the module with these names below the package."""
    return "grading" if names[:2] == ("evaluation", "grading") else names[0]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; name the module in full"
            if node.module == PACKAGE:
                yield from ((f"{PACKAGE}.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def our_parts(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(part of this package, line) of every import of our own."""
    for module, line in imported(tree):
        if module.split(".")[0] == PACKAGE:
            part = part_named((*module.split(".")[1:], "__init__"))
            yield (part if part in LEVEL else "__init__"), line


def violations_of_order(path: Path, tree: ast.AST) -> list[str]:
    """Imports that point upwards, or out of what `pairs/` may use."""
    part = part_of(path)
    assert part in LEVEL, f"{name_of(path)} is in no layer; give {part!r} its place in LAYERS"
    wrong = [(other, line) for other, line in our_parts(tree) if LEVEL[other] > LEVEL[part]]
    if part == "pairs":
        wrong += [(other, line) for other, line in our_parts(tree) if other not in PAIRS_MAY_IMPORT]
    return [f"{name_of(path)}:{line} ({part}) imports {other}" for other, line in wrong]


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    assert MODULES, f"no modules under {SOURCE}"
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def test_imports_point_one_way(trees: dict[Path, ast.Module]) -> None:
    wrong = [line for path, tree in trees.items() for line in violations_of_order(path, without_type_checking(tree))]
    assert not wrong, "\n".join(wrong)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of `if TYPE_CHECKING:`, which are never run."""

    class Cut(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                return [self.visit(child) for child in node.orelse]
            return self.generic_visit(node)

    return Cut().visit(deepcopy(tree))


def test_the_document_shows_these_layers() -> None:
    shown = re.search(r"\n((?:    .*\n)+)", ARCHITECTURE.split("## Parts, and who may import whom")[1])
    assert shown is not None
    drawn = [tuple(layer.replace(",", " ").split()) for layer in shown[1].split("<")]
    assert drawn == [tuple(part for part in layer if not part.startswith("__")) for layer in LAYERS]


def test_the_documents_way_of_a_token_passes_at_most_seven_files() -> None:
    way = ARCHITECTURE.split("## A token's way")[1].split("\n## ")[0]
    files = set(re.findall(r"`([\w/]+\.py)`", way))
    assert 3 <= len(files) <= 7
    missing = [file for file in files if not (SOURCE / file).exists()]
    assert not missing, missing


def test_the_order_test_sees_an_upward_import() -> None:
    tree = ast.parse("def f():\n    from select_to_think.runtime import Runtime")
    assert violations_of_order(SOURCE / "models" / "loading.py", tree)
    assert not violations_of_order(SOURCE / "cli" / "demo.py", tree)


def test_the_package_stands_without_its_recipe(trees: dict[Path, ast.Module]) -> None:
    wrong = [
        f"{name_of(path)}:{line}"
        for path, tree in trees.items()
        for m, line in imported(tree)
        if m.split(".")[0] == "recipe"
    ]
    assert RECIPE and not wrong, "\n".join(wrong)


def test_only_contexts_touch_the_cache(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        if part_of(path) == "contexts":
            continue
        for node in ast.walk(tree):
            names = (
                node.attr if isinstance(node, ast.Attribute) else "",
                node.arg or "" if isinstance(node, ast.keyword) else "",
                node.id if isinstance(node, ast.Name) else "",
            )
            if "past_key_values" in names:
                wrong.append(f"{name_of(path)}:{node.lineno}")  # type: ignore[attr-defined]
    assert not wrong, "past_key_values outside contexts/:\n" + "\n".join(wrong)


def test_nothing_unpickles(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        if name_of(path).endswith("serving/line.py"):  # reads what the process that it was forked from wrote
            continue
        wrong += [f"{name_of(path)}:{line} {m}" for m, line in imported(tree) if m.split(".")[0] in UNPICKLERS]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                wrong.append(f"{name_of(path)}:{node.lineno} {ast.unparse(node.func)}")
    assert not wrong, "pickle could be loaded:\n" + "\n".join(wrong)


def test_light_parts_import_nothing_heavy_at_the_top(trees: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in trees.items():
        if part_of(path) not in LIGHT_PARTS:
            continue
        top = without_type_checking(tree)
        functions = {id(child) for node in ast.walk(top) if is_function(node) for child in ast.walk(node)}
        for node in ast.walk(top):
            if id(node) in functions or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            wrong += [f"{name_of(path)}: {module}" for module, _ in imported(node) if module.split(".")[0] in HEAVY]
    assert not wrong, "import these inside the function that needs them:\n" + "\n".join(wrong)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_modules_are_short_and_documented() -> None:
    wrong = []
    for path in (*MODULES, *RECIPE):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONGEST_MODULE:
            wrong.append(f"{name_of(path)} has {lines} lines, at most {LONGEST_MODULE}")
        if not ast.get_docstring(tree):
            wrong.append(f"{name_of(path)} has no module docstring")
    assert not wrong, "\n".join(wrong)


def test_functions_are_short() -> None:
    wrong = []
    for path in (*MODULES, *RECIPE):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if is_function(node) and (length := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:  # type: ignore[attr-defined]
                wrong.append(f"{name_of(path)}:{node.lineno} {node.name} has {length} lines")  # type: ignore[attr-defined]
    assert not wrong, f"at most {LONGEST_FUNCTION} lines:\n" + "\n".join(wrong)
