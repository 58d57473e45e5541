"""The local Prefect server, which outlives a command so that the next one need not wait for it.

The first command that needs it starts it, the next ones find it, and it ends by itself when no command has
used it for `CIFARFLOW_SERVER_IDLE_MINUTES` (15). With `CIFARFLOW_SERVER=temporary`, the default where `CI` is
set, a command has its own, which ends with it.
"""

import atexit
import contextlib
import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from filelock import FileLock, Timeout

from flows.server.api import describe_startup_failure, load_settings
from flows.server.process import HOST
from tasks.processes.process import python_path
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import read_json, write_json

if TYPE_CHECKING:
    from prefect.settings import Settings

STARTUP_TIMEOUT_S = 120
SHUTDOWN_TIMEOUT_S = 20


@dataclass(frozen=True)
class LocalServer:
    """A local server that runs."""

    pid: int
    started: float
    """The process's creation time, which tells it from another one with the same pid."""
    port: int

    @property
    def dashboard(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        return api_url(self.port)

    def is_running(self) -> bool:
        try:
            return psutil.Process(self.pid).create_time() == self.started and is_healthy(self.api_url)
        except psutil.NoSuchProcess:
            return False


def find_local_server() -> LocalServer | None:
    """The local server that runs now, if any."""
    return _ServerFiles(load_settings()).load()


def stop_local_server() -> LocalServer | None:
    """Stop the local server; returns it, or None if there was none. `RunError` while a command uses it."""
    files = _ServerFiles(load_settings())
    with files.startup_lock():
        server = files.load()
        if server is not None:
            with files.clients.open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError("a command still uses the server; it stops when no command does") from None
                _terminate(psutil.Process(server.pid))
    return server


def api_url(port: int) -> str:
    return f"http://{HOST}:{port}/api"


def is_healthy(url: str) -> bool:
    """Whether a Prefect API responds at the URL."""
    try:
        with urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 - of this module, on loopback
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class _ServerFiles:
    """What commands know of the local server, in Prefect's home: one per database and version of Prefect."""

    def __init__(self, settings: "Settings") -> None:
        import prefect

        self.folder = settings.home / "cifarflow"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot write to Prefect's home, {settings.home}: {error.strerror}; set PREFECT_HOME to a "
                "directory that can be written"
            ) from None
        url = settings.server.database.connection_url
        key = f"{prefect.__version__} {url.get_secret_value() if url else ''}"
        name = hashlib.sha256(key.encode()).hexdigest()[:8]
        self.state = self.folder / f"server-{name}.json"
        self.clients = self.folder / f"server-{name}.clients"
        self.log = self.folder / f"server-{name}.log"
        self._startup = self.folder / f"server-{name}.lock"

    @contextlib.contextmanager
    def startup_lock(self) -> Iterator[None]:
        """One command at a time starts or stops the server."""
        try:
            with FileLock(self._startup, timeout=STARTUP_TIMEOUT_S):
                yield
        except Timeout:
            raise RunError(
                "another command has been starting the local Prefect server for too long"
            ) from None

    def load(self) -> LocalServer | None:
        try:
            server = LocalServer(**read_json(self.state))
        except (OSError, ValueError, TypeError):
            return None
        return server if server.is_running() else None


@contextlib.contextmanager
def local_server(settings: "Settings", preload: Sequence[str], port: int | None) -> Iterator[LocalServer]:
    files = _ServerFiles(settings)
    idle_timeout_s = _idle_timeout_s()
    if not idle_timeout_s:
        process = _start_process(files, port or find_free_port(), idle_timeout_s)
        atexit.register(_terminate, process)  # after Prefect, which still sends events when this process ends
        yield _wait_until_healthy(process, files, preload)
        return
    with files.clients.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # until this command ends; the server ends when nobody holds it
        with files.startup_lock():
            server = files.load()
            if server is None:
                server = _wait_until_healthy(
                    _start_process(files, port or find_free_port(), idle_timeout_s), files, preload
                )
                write_json(files.state, asdict(server))
        yield server


def _idle_timeout_s() -> float:
    """0: a temporary server."""
    mode = os.environ.get("CIFARFLOW_SERVER", "temporary" if os.environ.get("CI") else "local")
    if mode not in {"local", "temporary"}:
        raise InputError(f"CIFARFLOW_SERVER should be local or temporary, not {mode!r}")
    minutes = os.environ.get("CIFARFLOW_SERVER_IDLE_MINUTES", "15")
    try:
        idle_timeout_s = 60 * float(minutes)
    except ValueError:
        idle_timeout_s = -1.0
    if not 0 < idle_timeout_s < 1e6:
        raise InputError(f"CIFARFLOW_SERVER_IDLE_MINUTES should be a number of minutes, not {minutes!r}")
    return idle_timeout_s if mode == "local" else 0.0


def _start_process(files: _ServerFiles, port: int, idle_timeout_s: float) -> psutil.Popen:
    environment = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment |= {"PREFECT_API_URL": api_url(port)}  # of the dashboard's requests, too
    environment |= {"PYTHONPATH": python_path()}  # this command's code, not the current folder's
    arguments = [str(port), str(files.clients), str(idle_timeout_s)]
    with files.log.open("wb") as log:
        return psutil.Popen(
            [sys.executable, "-P", "-m", "flows.server.process", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C goes to the command, not to its server
        )


def _wait_until_healthy(process: psutil.Popen, files: _ServerFiles, preload: Sequence[str]) -> LocalServer:
    try:
        port = int(process.args[3])
        server = LocalServer(process.pid, process.create_time(), port)
        for module in preload:
            import_module(module)
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if is_healthy(server.api_url):
                return server
            time.sleep(0.1)
    except BaseException:
        _terminate(process)
        raise
    _terminate(process)
    raise RunError(describe_startup_failure(files.log))


def _terminate(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(SHUTDOWN_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
