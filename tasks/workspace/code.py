"""The code of a stage: what dvc.yaml lists, what a checkpoint belongs to, what the ledger records."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stage_code(stage: str) -> list[str]:
    """Files and folders, relative to the project, on which the stage depends: dvc.yaml's entries.

    The stage's own file, and of whatever else its imports reach the whole package: `tasks/training` stands for
    all of its files. A new module or import inside a package therefore changes no list. A subpackage is not part
    of its package (`models` without `models/toys`, which .dvcignore leaves out).
    """
    own = Path("tasks") / f"{stage}.py"
    folders = {file.parent for file in _import_closure(own, set())} - {Path("tasks")}
    return sorted(path.as_posix() for path in {own, *folders})


def code_sha256(*stages: str) -> str:
    """A digest of the code of these stages: names and contents of all files that `stage_code` covers."""
    digest = hashlib.sha256()
    for file in sorted({file for stage in stages for file in _files(stage)}):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _files(stage: str) -> Iterator[Path]:
    for entry in stage_code(stage):
        path = ROOT / entry
        yield from [path] if path.is_file() else (file for file in path.iterdir() if _is_source(file))


def _is_source(file: Path) -> bool:
    return file.is_file() and file.suffix in {".py", ".html"}


def _import_closure(module: Path, seen: set[Path]) -> set[Path]:
    """The project's own modules that run when `module` is imported, wherever in it an import stands."""
    seen.add(module)
    for name in _runtime_imports(ast.parse((ROOT / module).read_bytes())):
        file = Path(*name.split(".")).with_suffix(".py")
        if file not in seen and (ROOT / file).is_file():
            _import_closure(file, seen)
    return seen


def _runtime_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from _runtime_imports(node)
