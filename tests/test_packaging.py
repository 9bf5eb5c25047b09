"""What the distribution holds, checked without installing anything."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
import zipfile
from pathlib import Path

import pytest

import select_to_think

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "select_to_think"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LARGEST_PAIR = 40 * 2**20  # bytes
LARGEST_LLM = 15 * 2**20  # of demo-x


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that the build backend makes of this checkout."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling comes with `make test`")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_the_wheel_carries_every_file_that_the_program_reads(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    wanted = [
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert [name for name in wanted if name not in held] == []
    assert "select_to_think/py.typed" in held
    assert any(name.startswith("select_to_think/analysis/page/") and name.endswith(".html") for name in held)


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"select_to_think", f"select_to_think-{select_to_think.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_bundled_pair_is_complete_and_small() -> None:
    folder = PACKAGE / "pairs" / "demo"
    if not folder.is_dir():
        pytest.skip("the pair is not trained yet")
    for role in ("slm", "llm"):
        for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
            assert (folder / role / name).is_file(), f"{role}/{name} is missing"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LARGEST_PAIR
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}]


def test_the_pair_of_two_vocabularies_holds_an_llm_and_nothing_twice() -> None:
    folder = PACKAGE / "pairs" / "demo-x"
    assert {path.name for path in folder.iterdir()} == {"llm", "notes.json"}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        assert (folder / "llm" / name).is_file(), f"llm/{name} is missing"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LARGEST_LLM


def test_the_installed_version_is_that_of_the_package() -> None:
    try:
        installed = importlib.metadata.version("select-to-think")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    assert installed == select_to_think.__version__


def test_constraints_pin_every_direct_dependency() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    names = {re.split(r"[<>=\[]", requirement)[0] for group in groups for requirement in group}
    assert sorted(names - {"select-to-think"} - pinned.keys()) == []
    assert next(iter(pinned)) == "torch" and pinned["torch"] == "2.13.0"


def test_no_package_index_is_named() -> None:
    for name in ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "index-url" not in text and "find-links" not in text and "://" not in text, name


def test_ci_runs_what_a_newcomer_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "exec make test"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
