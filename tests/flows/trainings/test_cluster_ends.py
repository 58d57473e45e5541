"""A command or a scheduler that is killed: no training goes on unseen on a worker."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings

from tests.brightness import save_brightness_splits
from tests.conftest import ROOT
from tests.flows.trainings.test_cluster import dask_process, start_worker

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.usefixtures("prefect_server")]

SWEEP = """
if __name__ == "__main__":
    import sys
    sys.path.insert(0, {root!r})
    from flows.sweep import run_sweep
    from tests.brightness import build_config, build_params

    params = build_params(build_config(epochs=100_000, batch_size=20), splits="splits", weights="weights")
    run_sweep(params, 2, 1, {address!r})
"""


@pytest.mark.parametrize("killed", ["command", "scheduler"])
def test_training_whose_command_or_scheduler_is_killed_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_brightness_splits(Path("splits"), 200, 60, 50)
    cache = tmp_path / "cache"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with (
        dask_process(tmp_path / "a", "scheduler", *options, ready=r"Scheduler at:\s+(tcp://\S+)") as address,
        start_worker(tmp_path / "b", address, CIFARFLOW_CACHE=str(cache)),
    ):
        program = tmp_path / "program.py"
        program.write_text(SWEEP.format(root=str(ROOT), address=address))
        with Path("errors").open("wb") as errors:
            command = subprocess.Popen(
                [sys.executable, program],
                env=os.environ | {"PREFECT_API_URL": str(get_current_settings().api.url)},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        try:
            log = wait_for_epochs(cache)
            if killed == "command":
                command.kill()
            else:
                kill_scheduler()
                assert command.wait(60) == 1
                assert "RunError: lost the Dask scheduler" in Path("errors").read_text().splitlines()[-1]
            wait_until_quiet(log)
        finally:
            command.kill()
            command.wait()
    with get_client(sync_client=True) as client:
        states = {task_run.state_name for task_run in client.read_task_runs() if "seed" in task_run.name}
    assert "Running" not in states


def wait_for_epochs(cache: Path) -> Path:
    """The log of the training, once it has begun."""
    deadline = time.monotonic() + 180
    while not any("epoch 2/" in log.read_text() for log in cache.glob("sweep/*/seed-*/log.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return next(cache.glob("sweep/*/seed-*/log.txt"))


def wait_until_quiet(log: Path) -> None:
    deadline = time.monotonic() + 60
    size = -1
    while size != (size := log.stat().st_size):
        assert time.monotonic() < deadline, "the training goes on"
        time.sleep(2)


def kill_scheduler() -> None:
    (scheduler,) = (
        process
        for process in psutil.Process().children(recursive=True)
        if "scheduler" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    )
    scheduler.send_signal(signal.SIGKILL)
