"""The rules of the house: who imports whom, what stands where, how long a file may be."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tasks.stages import STAGES
from tests.conftest import ROOT

TOP = ("flows", "tasks", "models")
MODULES = sorted(path.relative_to(ROOT) for top in TOP for path in (ROOT / top).rglob("*.py"))
SOURCES = sorted(
    path.relative_to(ROOT)
    for top in (*TOP, "tests", "benchmarks", "docs")
    for path in (ROOT / top).rglob("*.py")
)
ALLOWED = {"flows": {"flows", "tasks", "models"}, "tasks": {"tasks", "models"}, "models": {"models"}}
ENGINES = {"prefect", "dvc"}
MAX_LINES = 400


def imported_names(module: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_mutated_modules_and_their_tests_exist() -> None:
    tree = ast.parse((ROOT / "tests" / "mutation" / "sample.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TESTS"
    )
    for module, patterns in ast.literal_eval(value).items():
        assert Path(module) in MODULES, f"{module} is to be mutated"
        folder = ROOT / "tests" / Path(module).parent
        for pattern in patterns.split():
            assert list(folder.glob(pattern)), f"{module} has no test {pattern}"


def imported_modules(module: Path) -> set[Path]:
    """The project's own modules among them."""
    found = set()
    for name in imported_names(module):
        path = Path(*name.split("."))
        for each in (path, path.parent):
            found |= {Path(f"{each}.py"), each / "__init__.py"} & set(MODULES)
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_run_one_way(module: Path) -> None:
    own = {name.split(".")[0] for name in imported_names(module)} & ALLOWED.keys()
    assert own <= ALLOWED[module.parts[0]]


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "tasks"], ids=str)
def test_tasks_import_neither_prefect_nor_dvc(module: Path) -> None:
    assert not {name.split(".")[0] for name in imported_names(module)} & ENGINES


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] == "models"], ids=str)
def test_models_import_pytorch_and_the_standard_library_only(module: Path) -> None:
    others = {name.split(".")[0] for name in imported_names(module)} - {"torch", "torchvision", "models"}
    assert others <= sys.stdlib_module_names
    assert not others & {"pathlib", "os", "io", "shutil"}, "a model knows no file"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_imports_no_other_stage(stage: str) -> None:
    others = {Path("tasks") / f"{other}.py" for other in STAGES if other != stage}
    assert not imported_modules(Path("tasks") / f"{stage}.py") & others


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.parts[0] == "tasks" and len(m.parts) > 2], ids=str
)
def test_package_imports_no_stage(module: Path) -> None:
    assert not imported_modules(module) & {Path("tasks") / f"{stage}.py" for stage in STAGES}


def test_training_and_inference_do_not_import_each_other() -> None:
    used_later = ("onnx", "inference", "benchmarking")
    for one, other in (
        *(("training", room) for room in used_later),
        *((room, "training") for room in used_later),
    ):
        for module in (ROOT / "tasks" / one).glob("*.py"):
            imports = imported_modules(module.relative_to(ROOT))
            assert not [file for file in imports if file.parts[:2] == ("tasks", other)], module


def test_splits_import_no_network() -> None:
    """A new network must not re-run the data split."""
    assert not [
        file for file in imported_modules(Path("tasks/workspace/splits.py")) if file.parts[0] == "models"
    ]


def test_packages_have_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        package = _package(module)
        graph.setdefault(package, set()).update(
            {_package(file) for file in imported_modules(module)} - {package}
        )
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_imports_follow_the_drawing_in_contributing() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    arrows = re.findall(r"^    ([\w/]+)(?:\[[^]]*\])? --> ([\w/]+)$", text, re.MULTILINE)
    graph: dict[str, set[str]] = {}
    for source, target in arrows:
        graph.setdefault(source, set()).add(target)
    reached: dict[str, set[str]] = {}
    for node in TopologicalSorter(graph).static_order():
        below = graph.get(node, set())
        reached[node] = below.union(*(reached[target] for target in below))
    for module in MODULES:
        node = _drawn(module)
        assert {_drawn(file) for file in imported_modules(module)} - {node} <= reached[node], module


def _drawn(module: Path) -> str:
    """The node of the drawing that stands for a module."""
    if module.parts[0] == "tasks" and len(module.parts) == 2:
        is_stage = module.stem in {*STAGES, "stages", "__main__", "__init__"}
        return "stages" if is_stage else f"tasks/{module.stem}"
    if module == Path("flows/parameters.py"):
        return "flows/parameters"
    return module.parent.as_posix()


def _package(module: Path) -> str:
    """A package below tasks/, flows/ or models/ as a whole; a module of their top level for itself."""
    return str(module if len(module.parts) == 2 else module.parent)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_names_say_what_is_in_a_module(module: Path) -> None:
    assert not {"utils", "helpers", "common", "manager", "misc"} & {
        part.removesuffix(".py") for part in module.parts
    }


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_source_is_short_enough(source: Path) -> None:
    assert len((ROOT / source).read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("test", [s for s in SOURCES if s.name.startswith("test_")], ids=str)
def test_tests_mirror_the_tree(test: Path) -> None:
    """A test beside the module or package of its name, or of its first words; e2e/ is for the whole."""
    place = test.relative_to("tests").parent
    if place.parts[:1] in {(), ("e2e",)}:
        return
    words = test.stem.removeprefix("test_").split("_")
    stems = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    assert any((ROOT / place / f"{stem}.py").is_file() or (ROOT / place / stem).is_dir() for stem in stems), (
        f"{place}/ has no {stems[0]}.py"
    )


def test_lock_holds_no_registry_address() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in re.sub(r"--hash=\S+", "", lock)
    assert not [line for line in lock.splitlines() if line.startswith(("--index", "--extra-index", "--find"))]


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved to other code; the comment says which version the commit is."""
    used = [
        line
        for file in (ROOT / ".github").rglob("*.y*ml")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(- )?uses:", line)
    ]
    assert used
    pinned = re.compile(r"\s*(- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
    assert [line for line in used if not pinned.fullmatch(line)] == []


def test_image_is_pinned_by_version_and_runs_as_no_root() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (base,) = (line for line in lines if line.startswith("FROM "))
    assert re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-[a-z]+", base)
    (user,) = (line for line in lines if line.startswith("USER "))
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)  # numbers, which Kubernetes can check
    assert not [line for line in lines[lines.index(user) :] if line.startswith(("RUN", "COPY"))]
