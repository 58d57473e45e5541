"""Plant each mutant of a sample (JSON on standard input) in a copy of the project, and run its tests.

A mutant that they do not notice survives, and is printed: either a test is missing, or the changed line does
nothing that counts. The exit code is 1 if more than 5% survive.
"""

import contextlib
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[2]
MIN_CAUGHT = 0.95
FAST = "not (slow or server or browser or data or node or distributed or faults)"
SLOW = "slow and not (server or browser or data or node or distributed or faults)"
TIMEOUT_S = 300.0
PRELOADED = ("torch", "scipy.stats", "onnxruntime", "pytest")
"""what most tests import: a process that has done so forks for each mutant"""


def main() -> int:
    mutants = json.load(sys.stdin)
    num_workers = os.cpu_count() or 1
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPool(num_workers) as pool:
        copies: Queue[Copy] = Queue()
        for number in range(num_workers):
            copies.put(Copy(Path(folder, str(number))))
        check_tests_pass(copies, sorted({mutant["tests"] for mutant in mutants}))
        survivors = []
        for number, (mutant, survived) in enumerate(
            pool.imap(lambda mutant: (mutant, try_mutant(copies, mutant)), mutants), start=1
        ):
            if survived:
                survivors.append(mutant)
                print(format_survivor(mutant), flush=True)
            if number % 25 == 0:
                print(f"{number} of {len(mutants)}, {time.monotonic() - start:.0f} s", flush=True)
    caught = 1 - len(survivors) / len(mutants)
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants caught: {caught:.1%}")
    return 0 if caught >= MIN_CAUGHT else 1


class Copy:
    """A copy of the project, and a process in it that forks for each run of tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self._process = subprocess.Popen(
            [sys.executable, "-B", __file__, "--serve"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run_tests(self, marks: str, tests: str) -> str:
        """Return nothing where the tests pass, and else the end of their output."""
        files = [str(file.relative_to(self.folder)) for file in sorted(self.folder.glob(tests))]
        assert files, tests
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([marks, *files]) + "\n")
        self._process.stdin.flush()
        return str(json.loads(self._process.stdout.readline()))


def check_tests_pass(copies: "Queue[Copy]", tests: list[str]) -> None:
    copy = copies.get()
    for each in tests:
        for marks in (FAST, SLOW):
            if output := copy.run_tests(marks, each):
                sys.exit(f"{each} fails without a mutant:\n{output}")
    copies.put(copy)


def try_mutant(copies: "Queue[Copy]", mutant: dict[str, Any]) -> bool:
    """Whether the mutant survives the fast tests, and then the slow ones."""
    copy = copies.get()
    try:
        module = copy.folder / mutant["module"]
        module.write_text(mutant["code"], encoding="utf-8")
        survived = not any(copy.run_tests(marks, mutant["tests"]) for marks in (FAST, SLOW))
        shutil.copy(ROOT / mutant["module"], module)
        # Python compares size and second: of two mutants, it could take the bytecode of the other.
        for file in (module.parent / "__pycache__").glob(f"{module.stem}.*"):
            file.unlink()
    finally:
        copies.put(copy)
    return survived


def format_survivor(mutant: dict[str, Any]) -> str:
    before = (ROOT / mutant["module"]).read_text(encoding="utf-8").splitlines()
    changed = [
        line
        for line in difflib.unified_diff(before, mutant["code"].splitlines(), n=0, lineterm="")
        if line[0] in "+-" and line[:3] not in {"+++", "---"}
    ]
    return "\n  ".join([f"survived: {mutant['module']}:{mutant['line']} {mutant['function']}", *changed])


def serve() -> None:
    """Run tests in a child per line of standard input, and answer with a line each."""
    for name in PRELOADED:
        __import__(name)
    import pytest

    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        marks, *files = json.loads(line)
        with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory() as temporary:
            child = os.fork()
            if child == 0:
                os.setsid()
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.path.insert(0, str(Path.cwd()))
                options = [
                    "-x",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    f"--basetemp={temporary}/pytest",
                    "-m",
                    marks,
                ]
                code = pytest.main([*options, *files])
                # No test is left where a file has no slow ones.
                os._exit(0 if code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED} else 1)
            passed = wait_for(child)
            output.seek(0)
            text = "" if passed else output.read().decode(errors="replace")[-4000:] or "no output"
        os.write(answers, (json.dumps(text) + "\n").encode())


def wait_for(child: int) -> bool:
    """Whether the child's tests passed in time; a loop without an end counts as noticed."""
    deadline = time.monotonic() + TIMEOUT_S
    status: int | None = None
    while status is None and time.monotonic() < deadline:
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status == 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        sys.exit(main())
