"""Fault injection: failing writes, a lost server and SIGKILL in a pipeline and a retraining on the sample.

`make faults` runs them and prints how many faults were injected. After every fault: no traceback, a true
`dvc status`, a readable ledger, a whole champion, no lock and no process left, and a next run that ends well.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.repo import Repo
from filelock import FileLock
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.pipeline import pipeline
from flows.run.lock import LOCK_FILE
from flows.server.connection import connect_to_server
from tasks.overrides import parse_overrides
from tasks.registry.ledger import current_champion, read_ledger
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file
from tests.e2e.conftest import FAULTS
from tests.e2e.fault_injection import WRITE_ERRNOS, RequestFaults, WriteFaults
from tests.flows.conftest import IMPROVE, run_pipeline, run_retrain

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(600),
    pytest.mark.server,
    pytest.mark.usefixtures("prefect_server"),
]

CHAMPION = Path("registry/champion.onnx")
CHANGES = {  # of one parameter, because of which the stage runs
    "split": "split.seed=1",
    "train": "train.lr=0.002",
    "evaluate": "evaluate.calibration_bins=7",
    "export": "export.parity_batch_sizes=[3]",
    "quantize": "quantize.calibration_images=50",
    "benchmark": "benchmark.warmup_s=0.02",
    "report": "report.gallery_size=3",
}
OUTPUTS = {
    "split": "splits.safetensors",
    "train": "model.safetensors",
    "evaluate": "metrics.json",
    "export": "model.onnx",
    "quantize": "model.int8.onnx",
    "benchmark": "benchmark.json",
    "report": "index.html",
}


@pytest.fixture(scope="module")
def write_faults() -> WriteFaults:
    return WriteFaults()


def check_invariants(workspace: Path) -> None:
    with FileLock(workspace / LOCK_FILE, timeout=1):
        pass
    champion = current_champion(read_ledger())
    if champion is not None and CHAMPION.exists():
        assert hash_file(CHAMPION, "md5") == champion.model_md5
    with Repo() as repo:
        repo.status()
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [command for command in commands if " -m tasks" in command]


@pytest.fixture
def assert_no_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Callable[[], None]:
    """Neither in what was logged nor in what was printed since the last call."""

    def check() -> None:
        output = caplog.text + "".join(capfd.readouterr())
        caplog.clear()
        assert "Traceback" not in output, output

    return check


def fails_for_a_known_reason(state: State[Any]) -> bool:
    if state.is_completed():
        return False
    error = state.result(raise_on_failure=False)
    assert isinstance(error, RunError), "".join(traceback.format_exception(error))
    return True


def one_per_folder(files: list[str], root: str) -> list[str]:
    """The files, those below `root` only one per folder: the time is limited."""
    below = {str(Path(file).parent): file for file in files if file.startswith(root)}
    return sorted({*below.values(), *(file for file in files if not file.startswith(root))})


def reset(workspace: Path, pristine: Path) -> None:
    for entry in workspace.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.copytree(pristine, workspace, symlinks=True, dirs_exist_ok=True)


def test_pipeline_with_failing_writes_fails_in_one_line_and_recovers(
    workspace: Path,
    write_faults: WriteFaults,
    tmp_path: Path,
    assert_no_traceback: Callable[[], None],
    record_property: Callable[[str, str], None],
) -> None:
    """Every file that a run of evaluation, export and what follows opens to write; of DVC's own, one."""
    changes = [CHANGES[name] for name in ("evaluate", "export")]
    shutil.copytree(workspace, tmp_path / "pristine", symlinks=True)
    with write_faults.record(workspace) as opened:
        assert run_pipeline(*changes).is_completed()
    targets = one_per_folder(opened, "/.dvc/tmp/")
    assert len(targets) > 7
    num_failed = 0
    for number, target in enumerate(targets):
        reset(workspace, tmp_path / "pristine")
        with write_faults.inject(workspace, target, WRITE_ERRNOS[number % len(WRITE_ERRNOS)]):
            num_failed += fails_for_a_known_reason(run_pipeline(*changes))
        assert_no_traceback()
        check_invariants(workspace)
        assert run_pipeline(*changes).is_completed(), target
        with Repo() as repo:
            assert repo.status() == {}, target
    record_property(
        FAULTS, f"{len(targets)} failing writes in the pipeline: {num_failed} runs failed, all recovered"
    )


def test_retraining_with_failing_writes_keeps_a_whole_champion(
    champion_copy: Path,
    write_faults: WriteFaults,
    tmp_path: Path,
    assert_no_traceback: Callable[[], None],
    record_property: Callable[[str, str], None],
) -> None:
    """The files that a retraining opens to write beside those of the pipeline; of Git's, one per folder."""
    shutil.copytree(champion_copy, tmp_path / "pristine", symlinks=True)
    before = hash_file(CHAMPION, "md5")
    with write_faults.record(champion_copy) as opened:
        assert run_retrain(*IMPROVE).is_completed()
    targets = one_per_folder([name for name in opened if name.startswith(("/.git/", "/registry/"))], "/.git/")
    assert len(targets) > 5
    num_failed = 0
    for number, target in enumerate(targets):
        reset(champion_copy, tmp_path / "pristine")
        with write_faults.inject(champion_copy, target, WRITE_ERRNOS[number % len(WRITE_ERRNOS)]):
            num_failed += fails_for_a_known_reason(run_retrain(*IMPROVE))
        assert_no_traceback()
        champion = current_champion(read_ledger())
        assert champion is not None
        assert hash_file(CHAMPION, "md5") in {before, champion.model_md5}
        assert run_retrain(*IMPROVE).is_completed(), target
        check_invariants(champion_copy)
        assert hash_file(CHAMPION, "md5") != before, target
    record_property(
        FAULTS, f"{len(targets)} failing writes in a retraining: {num_failed} runs failed, all recovered"
    )


def run_without_server() -> RunError | None:
    try:
        with connect_to_server():
            run_pipeline()
    except RunError as error:
        return error
    return None


def test_pipeline_that_loses_its_server_fails_in_one_line(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_no_traceback: Callable[[], None],
    record_property: Callable[[str, str], None],
) -> None:
    """At each kind of request that a run with nothing to do makes: refused, reset or hung, from then on."""
    faults = RequestFaults(monkeypatch)
    assert run_pipeline().is_completed()
    targets = sorted(set(faults.requests))
    num_failed = 0
    for number, target in enumerate(targets):
        error = RequestFaults.KINDS[number % len(RequestFaults.KINDS)]
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), faults.inject(target, error):
            lost = run_without_server()
        if lost is not None:
            num_failed += 1
            assert len(str(lost).splitlines()) == 1
        assert_no_traceback()
        check_invariants(workspace)
    record_property(
        FAULTS, f"{len(targets)} lost servers: {num_failed} runs failed in one line, the others ended well"
    )
    assert run_pipeline().is_completed()


def run_until_killed(url: str, when: str, stage: str) -> None:
    """SIGKILL as the stage's output appears under its name, or as `dvc.lock` is written after it."""
    seen = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and Path(os.fsdecode(arguments[1])).name == OUTPUTS[stage]:
            seen.append(stage)
            if when == "in":
                os.kill(os.getpid(), signal.SIGKILL)
        elif event == "open" and seen and "w" in (arguments[1] or "") and "dvc.lock" in str(arguments[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with temporary_settings({PREFECT_API_URL: url}):
        pipeline(parse_overrides([CHANGES[stage]]), return_state=True)


def test_pipeline_killed_in_or_after_a_stage_is_finished_by_the_next(
    workspace: Path, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    shutil.copytree(workspace, tmp_path / "pristine", symlinks=True)
    context = multiprocessing.get_context("forkserver")  # which imports Prefect, DVC and PyTorch once
    context.set_forkserver_preload(["flows.pipeline", *(f"tasks.{stage}" for stage in CHANGES)])
    for stage, change in CHANGES.items():
        reset(workspace, tmp_path / "pristine")
        for when in ("in", "after"):  # the run after the first kill is the one that is killed again
            process = context.Process(target=run_until_killed, args=(PREFECT_API_URL.value(), when, stage))
            process.start()
            process.join(120)
            assert process.exitcode == -signal.SIGKILL, (stage, when)
            check_invariants(workspace)
        state = run_pipeline(change)
        assert state.is_completed(), state.message
        with Repo() as repo:
            assert repo.status() == {}, stage
    record_property(FAULTS, f"{2 * len(CHANGES)} kills: all finished by the next run")
