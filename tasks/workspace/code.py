"""`stage_code` says which files are the code of a stage.

DVC, checkpoints and the ledger all use this list. `python -m tasks.workspace.code STAGE` prints it as entries
for dvc.yaml.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.workspace.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


def stage_code(stage: str) -> list[str]:
    """List the files and folders, relative to the project, that are the stage's dependencies in dvc.yaml.

    They are the stage's own file, and every package that its imports reach, as a folder: a new module or
    import inside a package does not change the list. A subpackage is not part of its package.
    """
    own = Path("tasks") / f"{stage}.py"
    folders = {file.parent for file in import_closure(stage)} - {Path("tasks")}
    return sorted(path.as_posix() for path in {own, *folders})


def import_closure(stage: str) -> set[Path]:
    """Return the stage's own file and all of the project's modules that its imports reach."""
    return _import_closure(Path("tasks") / f"{stage}.py", set())


def code_sha256(*stages: str) -> str:
    """Compute the SHA-256 of the names and contents of all files in the `stage_code` of these stages."""
    digest = hashlib.sha256()
    for file in sorted({file for stage in stages for file in _files(stage)}):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def require_same_code(stages: Iterable[str], workspace: Path = Path()) -> None:
    """Raise `RunError` if the code that DVC hashes, in the workspace, is not the code that runs.

    They differ if a command of one clone runs in another one. Only the code of `stages` is compared.
    """
    if workspace.resolve() == ROOT:
        return
    for entry in sorted({entry for stage in stages for entry in stage_code(stage)}):
        hashed = workspace / entry
        if hashed.exists() and _read_sources(hashed) != _read_sources(ROOT / entry):
            raise RunError(
                f"{hashed.resolve()}, which DVC hashes, is not the code that runs, {ROOT / entry}; start the "
                "run with `cifarflow` in the project of that code (for a sample: cifarflow run --sample)"
            )


def _read_sources(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.iterdir() if _is_source(file)]
    return {file.name: file.read_bytes() for file in files}


def _files(stage: str) -> Iterator[Path]:
    for entry in stage_code(stage):
        path = ROOT / entry
        yield from [path] if path.is_file() else (file for file in path.iterdir() if _is_source(file))


def _is_source(file: Path) -> bool:
    return file.is_file() and file.suffix in {".py", ".cpp", ".html", ".css", ".js"}


def _import_closure(module: Path, seen: set[Path]) -> set[Path]:
    """Add `module`, and the project's modules that it imports at run time, to `seen`, and return `seen`.

    Imports in functions count; those under `if TYPE_CHECKING` do not, since they cannot change a result.
    """
    seen.add(module)
    for name in _runtime_imports(ast.parse((ROOT / module).read_bytes(), str(ROOT / module))):
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


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("\n".join(f"- {path}" for path in stage_code(name)))
