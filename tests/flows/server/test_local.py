"""The local server: one for all commands, found again, ended by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.deployment_server import wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

CIFARFLOW = Path(sys.executable).parent / "cifarflow"


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without a server, with a proxy that does not respond."""
    monkeypatch.chdir(tmp_path)
    env = os.environ | {
        "PREFECT_HOME": str(tmp_path / "home"),
        "CIFARFLOW_SERVER": "local",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "ALL_PROXY": "http://127.0.0.1:9",
    }
    env.pop("PREFECT_API_URL", None)
    return env


def run_cifarflow(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [CIFARFLOW, *arguments], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def find_server(env: dict[str, str]) -> psutil.Process:
    (state,) = Path(env["PREFECT_HOME"], "cifarflow").glob("*.json")
    return psutil.Process(json.loads(state.read_text())["pid"])


def listening_addresses(process: psutil.Process) -> set[str]:
    return {c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def test_local_server_is_shared_by_commands_and_stops(env: dict[str, str]) -> None:
    assert run_cifarflow(env, "server") == "no local server is running\n"
    commands = [
        subprocess.Popen(
            [CIFARFLOW, "toys", toy], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for toy in ("neuron", "backprop")
    ]
    assert [command.wait(120) for command in commands] == [0, 0]
    server = find_server(env)
    assert listening_addresses(server) == {"127.0.0.1"}
    assert "the local server runs at http://127.0.0.1:" in run_cifarflow(env, "server")
    run_cifarflow(env, "toys", "neuron")
    assert find_server(env) == server
    assert run_cifarflow(env, "server", "stop") == "the local server is stopped\n"
    assert not server.is_running()


@pytest.mark.distributed
def test_local_server_that_was_killed_is_started_again(env: dict[str, str]) -> None:
    run_cifarflow(env, "toys", "neuron")
    killed = find_server(env)
    killed.kill()
    env["CIFARFLOW_SERVER_IDLE_MINUTES"] = "0.05"
    run_cifarflow(env, "toys", "neuron")
    server = find_server(env)
    assert server != killed
    server.wait(30)  # it ends by itself: nobody uses it


@pytest.mark.distributed
def test_temporary_server_ends_with_a_killed_command(env: dict[str, str], tmp_path: Path) -> None:
    env["CIFARFLOW_SERVER"] = "temporary"
    log = tmp_path / "log"
    with log.open("w") as output:
        command = subprocess.Popen([CIFARFLOW, "toys", "all"], env=env, stdout=output, stderr=output)
    wait_until(lambda: "Finished in state" in log.read_text())
    (server,) = psutil.Process(command.pid).children()
    command.send_signal(signal.SIGKILL)
    command.wait()
    server.wait(30)


def test_command_whose_terminal_is_closed_ends_as_by_sigterm(env: dict[str, str], tmp_path: Path) -> None:
    env["CIFARFLOW_SERVER"] = "temporary"
    log = tmp_path / "log"
    with log.open("w") as output:
        before = signal.signal(
            signal.SIGHUP, signal.SIG_DFL
        )  # nohup, which the suite may run under, ignores it
        command = subprocess.Popen([CIFARFLOW, "toys", "all"], env=env, stdout=output, stderr=output)
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: "Beginning flow run" in log.read_text())  # of the first: the others take seconds
    (server,) = psutil.Process(command.pid).children()
    began = time.monotonic()
    command.send_signal(signal.SIGHUP)
    assert command.wait(60) == 130
    assert time.monotonic() - began < 30
    assert "cifarflow: interrupted" in log.read_text().splitlines()  # Prefect may add that events are left
    assert not server.is_running()
