"""The local server: one for all commands, found again, ended by itself."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from prefect.settings import Settings

from flows.server import local
from flows.server.proxies import drop_unusable_proxies
from tasks.workspace.errors import RunError
from tests.e2e.deployment_server import find_free_port, wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

CIFARFLOW = Path(sys.executable).parent / "cifarflow"


@pytest.fixture
def env(prefect_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without a server, with a proxy that does not respond."""
    monkeypatch.chdir(tmp_path)
    env = os.environ | {
        "PREFECT_HOME": str(prefect_home),
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
    server.wait(60)  # it ends by itself: nobody uses it


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
    server.wait(60)


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
    assert command.wait(60) == 130, log.read_text()
    assert time.monotonic() - began < 30
    assert "cifarflow: interrupted" in log.read_text().splitlines()  # Prefect may add that events are left
    assert not server.is_running()


def test_server_whose_database_was_deleted_is_replaced(env: dict[str, str]) -> None:
    run_cifarflow(env, "toys", "neuron")
    broken = find_server(env)
    for file in Path(env["PREFECT_HOME"]).glob("prefect.db*"):
        file.unlink()
    run_cifarflow(env, "toys", "neuron")
    assert not broken.is_running()
    assert find_server(env).is_running()
    run_cifarflow(env, "server", "stop")


@pytest.mark.parametrize(
    ("variable", "left_out"),
    [
        ("ALL_PROXY=socks5://127.0.0.1:9", find_spec("socksio") is None),
        ("http_proxy=socks5h://127.0.0.1:9", find_spec("socksio") is None),
        ("ALL_PROXY=socks4://127.0.0.1:9", True),
        ("HTTPS_PROXY=nonsense://[", True),
    ],
)
def test_proxies_that_the_client_cannot_use_do_not_break_loopback(
    variable: str, left_out: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import httpx

    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    name, value = variable.split("=")
    monkeypatch.setenv(name, value)
    drop_unusable_proxies()
    assert (name in os.environ, name in capsys.readouterr().err) == (not left_out, left_out)
    httpx.Client().close()


def write_state(home: Path, name: str, **values: object) -> Path:
    file = home / "cifarflow" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))
    file.chmod(0o600)
    return file


@contextlib.contextmanager
def listener(user: int | None = None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process, of another user where one is given, that accepts requests on a port and answers 200."""
    script = (
        "import http.server as h\nclass A(h.BaseHTTPRequestHandler):\n"
        " def do_GET(self): self.send_response(200); self.end_headers(); print(self.headers, flush=True)\n"
        " def log_message(self, *a): pass\n"
        "s = h.HTTPServer(('127.0.0.1', 0), A); print(s.server_port, flush=True); s.serve_forever()"
    )
    python = (shutil.which("python3", path="/usr/bin:/bin") or sys.executable) if user else sys.executable
    process = subprocess.Popen(
        [python, "-c", script],
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
        env={},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def load_settings_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PREFECT_HOME", str(home))
    return Settings(home=home)


def test_only_a_private_state_file_of_the_process_that_listens_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = local._ServerFiles(load_settings_of(tmp_path, monkeypatch))
    with listener() as (process, port):
        recorded = {
            "pid": process.pid,
            "started": psutil.Process(process.pid).create_time(),
            "port": port,
            "credential": "a:b",
        }
        state = write_state(tmp_path, files.state.name, **recorded)
        assert files.load() is not None
        state.chmod(0o644)
        assert files.load() is None
        state.chmod(0o600)
        write_state(tmp_path, files.state.name, **recorded | {"port": port + 1})
        assert files.load() is None
        write_state(tmp_path, files.state.name, **recorded | {"pid": os.getpid()})
        assert files.load() is None
        state.rename(tmp_path / "elsewhere")
        state.symlink_to(tmp_path / "elsewhere")
        assert files.load() is None


def test_folder_that_others_can_write_is_closed_and_anothers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_uid: int
) -> None:
    settings = load_settings_of(tmp_path, monkeypatch)
    files = local._ServerFiles(settings)
    files.folder.chmod(0o777)
    local._ServerFiles(settings)
    assert files.folder.stat().st_mode & 0o777 == 0o700
    os.chown(files.folder, other_uid, other_uid)
    with pytest.raises(RunError, match="belongs to another user"):
        local._ServerFiles(settings)
    os.chown(files.folder, 0, 0)
    with listener() as (process, port):
        state = write_state(
            tmp_path,
            files.state.name,
            pid=process.pid,
            started=psutil.Process(process.pid).create_time(),
            port=port,
            credential="a:b",
        )
        os.chown(state, other_uid, other_uid)
        assert files.load() is None


def test_unprotected_server_of_an_earlier_version_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = local._ServerFiles(load_settings_of(tmp_path, monkeypatch))
    monkeypatch.setattr(local, "load_settings", lambda: Settings(home=tmp_path))
    with listener() as (process, port):
        started = psutil.Process(process.pid).create_time()
        write_state(tmp_path, "server-0.json", pid=process.pid, started=started, port=port)
        assert local.find_unprotected_servers() == [process.pid]
        assert files.load() is None
    assert local.find_unprotected_servers() == []


def test_serve_uses_no_server_that_others_own_or_that_asks_for_no_password(other_uid: int) -> None:
    for user, message in ((other_uid, "by a program of another user"), (None, "no Prefect server that asks")):
        with listener(user) as (process, port):
            with pytest.raises(RunError, match=message):
                local.find_own_server(port, "admin:secret")
            process.kill()
            assert process.stdout is not None
            assert "Authorization" not in process.stdout.read()
    assert local.find_own_server(find_free_port(), "admin:secret") is None
