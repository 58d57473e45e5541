"""The rules of the house: who imports whom, and what stands where."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

MODULES = sorted(
    path.relative_to(ROOT) for top in ("flows", "tasks", "models") for path in (ROOT / top).rglob("*.py")
)
ALLOWED = {"flows": {"flows", "tasks", "models"}, "tasks": {"tasks", "models"}, "models": {"models"}}
ENGINES = {"prefect", "dvc"}


def imported(module: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_one_way(module: Path) -> None:
    top = module.parts[0]
    own = {name.split(".")[0] for name in imported(module)} & ALLOWED.keys()
    assert own <= ALLOWED[top]


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "tasks"], ids=str)
def test_tasks_know_no_engine(module: Path) -> None:
    assert not {name.split(".")[0] for name in imported(module)} & ENGINES


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "models"], ids=str)
def test_models_know_pytorch_and_the_standard_library_alone(module: Path) -> None:
    others = {name.split(".")[0] for name in imported(module)} - {"torch", "models"}
    assert others <= sys.stdlib_module_names
    assert not others & {"pathlib", "os", "io", "shutil"}, "a model knows no file"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_names(module: Path) -> None:
    assert not {"utils", "helpers", "common", "manager", "misc"} & {
        part.removesuffix(".py") for part in module.parts
    }


def test_no_registry_address_in_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in re.sub(r"--hash=\S+", "", lock)
    assert not [line for line in lock.splitlines() if line.startswith(("--index", "--extra-index", "--find"))]
