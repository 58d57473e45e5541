"""`cifarflow serve`: server, deployments, automations and runs in one command."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from psutil import process_iter

from flows.run.lock import LOCK_FILE
from tests.e2e.deployment_server import (
    BIN,
    DeploymentServer,
    read_deployment_names,
    start_process,
    stop_process,
    wait_until,
)

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture
def serve(
    deployment_folder: Path, prefect_home: Path, tmp_path: Path
) -> Iterator[tuple[DeploymentServer, subprocess.Popen[bytes]]]:
    """`cifarflow serve` with a server of its own, which serves, and its process."""
    server = DeploymentServer(deployment_folder, prefect_home)
    server.env.pop("PREFECT_API_URL")
    log = tmp_path / "serve.log"
    process = start_process([str(BIN / "cifarflow"), "serve", "--port", str(server.port)], server, log)
    try:
        wait_until(lambda: "cifarflow server env" in log.read_text())
        server.log_in()
        yield server, process
    finally:
        stop_process(process)


def test_serve_starts_server_runs_deployments_and_stops(
    serve: tuple[DeploymentServer, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    server, process = serve
    code = server.folder / "flows/toys/base.py"  # a copy, which runs instead of the environment's
    text = code.read_text(encoding="utf-8")
    code.write_text(
        f"{text}\nimport pathlib\npathlib.Path('code-that-ran').write_text(__file__)\n", encoding="utf-8"
    )
    names = {name for name in read_deployment_names(server.folder) if "anywhere" not in name}
    wait_until(lambda: len(server.request("deployments/filter", {})) == len(names))
    server.run_prefect("deployment", "run", "neuron/neuron", "--watch")
    server.wait_until_completed(server.start_run("neuron/neuron", w1=2.0))
    assert (server.folder / "code-that-ran").read_text() == str(code)
    code.write_text(text, encoding="utf-8")
    automations = {entry["name"]: entry["enabled"] for entry in server.request("automations/filter", {})}
    assert automations["cifarflow: a run without heartbeats has crashed"]
    assert not automations["cifarflow: images are waiting"]
    log = (tmp_path / "serve.log").read_text()
    password = server.env["PREFECT_API_AUTH_STRING"]
    assert password not in log
    assert not any(
        password in " ".join(running.info["cmdline"] or []) for running in process_iter(["cmdline"])
    )
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "serve.log").read_text()
    assert not server.is_healthy()


def test_serve_whose_server_is_killed_ends_in_one_line(
    serve: tuple[DeploymentServer, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    server, process = serve
    (own,) = (
        running
        for running in process_iter(["cmdline"])
        if ["flows.server.process", str(server.port)] == (running.info["cmdline"] or [])[3:5]
    )
    own.kill()
    assert process.wait(60) == 1
    log = (tmp_path / "serve.log").read_text()
    assert log.splitlines()[-1].startswith("cifarflow: the local Prefect server has ended")
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_serve_that_is_terminated_ends_its_run_and_its_server(
    serve: tuple[DeploymentServer, subprocess.Popen[bytes]],
    tmp_path: Path,
    own_workspace: Path,
    number: signal.Signals,
) -> None:
    server, process = serve
    with FileLock(own_workspace / LOCK_FILE):  # the run waits for it
        run = server.start_run("pipeline/pipeline", workspace=str(own_workspace))
        wait_until(lambda: server.read_state(run)[0] == "Running")
        process.send_signal(number)
        assert process.wait(90) == 0
    log = (tmp_path / "serve.log").read_text()
    assert log.rstrip().endswith("stopped; schedules are paused until the next cifarflow serve")
    assert "never awaited" not in log
    assert not server.is_healthy()
    assert not [p for p in process_iter(["cmdline"]) if run in " ".join(p.info["cmdline"] or [])]
