"""Start `cifarflow`: the command line of the project in which the user stands.

An environment can serve several projects, or be installed without any. The project's own code runs, as with
`python -m tasks`, so that it is the code whose hashes DVC records. Until that is settled, only the standard
library is imported.
"""

import os
import sys
from pathlib import Path

INSTALLED = Path(__file__).resolve().parents[2]
MAIN = Path("flows", "cli", "main.py")
MARKERS = ("dvc.yaml", "params.yaml")
"""the files that every project has, with or without code of its own"""
RUN = """
import sys
sys.argv[0] = "cifarflow"
sys.path.insert(0, sys.argv.pop(1))
try:
    from flows.cli.main import main
except SyntaxError as error:
    sys.exit(f"cifarflow: {error.filename}, line {error.lineno}: {error.msg}")
main()
"""


def main() -> None:
    try:
        project = find_code(_read_directory(sys.argv[1:]))
    except FileNotFoundError:  # The current directory is gone, which the command line explains.
        project = None
    if project is not None and project != INSTALLED:
        _require_own(project)
        others = filter(None, [os.environ.get("PYTHONPATH")])
        # Processes that the command starts find the project's code by it as well.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(project), *others])
        os.execv(sys.executable, [sys.executable, "-P", "-c", RUN, str(project), *sys.argv[1:]])  # noqa: S606
    try:
        from flows.cli.main import main as run_command_line
    except SyntaxError as error:
        sys.exit(f"cifarflow: {error.filename}, line {error.lineno}: {error.msg}")
    run_command_line()


def find_code(start: Path) -> Path | None:
    """Return `start` or the nearest directory above it that is a project with code; None without one."""
    for directory in (start, *start.parents):
        if all(os.path.isfile(directory / name) for name in (*MARKERS, MAIN)):  # noqa: PTH113 - False where not readable
            return directory
    return None


def _read_directory(arguments: list[str]) -> Path:
    """Return the directory in which the command runs, which the option -C names before the command."""
    directory = ""
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "-C":
            directory = next(remaining, "")
        elif argument.startswith("-C"):
            directory = argument.removeprefix("-C")
        elif not argument.startswith("-"):
            break
    return Path.cwd().joinpath(directory).resolve()


def _require_own(project: Path) -> None:
    """Exit unless the code that was found, perhaps in a folder far above, is the user's own or root's."""
    for path in (project, project / MAIN):
        if path.stat().st_uid not in {os.geteuid(), 0}:
            print(
                f"cifarflow: another user owns the project {project}, so its code is not run; "
                f"if you trust it: PYTHONPATH={project} cifarflow ...",
                file=sys.stderr,
            )
            sys.exit(2)


if __name__ == "__main__":
    main()
