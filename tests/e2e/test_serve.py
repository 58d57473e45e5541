"""`cifarflow serve`: server, deployments, automations and runs in one command."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.deployment_server import (
    BIN,
    DeploymentServer,
    read_deployment_names,
    start_process,
    stop_process,
    wait_until,
)

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]


def test_serve_starts_server_runs_deployments_and_stops(deployment_folder: Path, tmp_path: Path) -> None:
    server = DeploymentServer(deployment_folder, tmp_path)
    server.env.pop("PREFECT_API_URL")
    log = tmp_path / "serve.log"
    serve = start_process([str(BIN / "cifarflow"), "serve", "--port", str(server.port)], server, log)
    try:
        wait_until(lambda: "Ctrl-C" in log.read_text())
        names = {name for name in read_deployment_names(deployment_folder) if "anywhere" not in name}
        wait_until(lambda: len(server.request("deployments/filter", {})) == len(names))
        server.wait_until_completed(server.start_run("neuron/neuron", w1=2.0))
        automations = {entry["name"]: entry["enabled"] for entry in server.request("automations/filter", {})}
        assert automations["cifarflow: a run without heartbeats has crashed"]
        assert not automations["cifarflow: images are waiting"]
        os.kill(serve.pid, signal.SIGINT)
        assert serve.wait(60) in {0, 130}
    finally:
        stop_process(serve)
    assert "Traceback" not in log.read_text()
    assert not server.is_healthy()
