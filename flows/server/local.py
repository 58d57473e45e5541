"""Run a local Prefect server, which outlives a command so that the next one need not wait for it.

The first command that needs it starts it, the next ones find it, and it ends by itself when no command has
used it for `CIFARFLOW_SERVER_IDLE_MINUTES` (15). With `CIFARFLOW_SERVER=temporary`, the default where `CI` is
set, a command has its own, which ends with it.

Runs execute what this server says, so it serves only the user who started it: it asks for a password, which
is new each time that it starts, and which commands find in a file that only this user can read.
"""

import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock, Timeout

from flows.server.api import describe_startup_failure, load_settings
from flows.server.listeners import (
    FOUND,
    find_free_port,
    find_listening_ports,
    find_listening_processes,
    is_free,
    query,
)
from flows.server.process import HOST
from tasks.processes import python_path
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, read_json

if TYPE_CHECKING:
    from prefect.settings import Settings

STARTUP_TIMEOUT_S = 120
SHUTDOWN_TIMEOUT_S = 20
QUERY_ATTEMPTS = 3


@dataclass(frozen=True)
class LocalServer:
    """A local server that runs."""

    pid: int
    started: float
    """The process's creation time, which tells it from another one with the same pid."""
    port: int
    credential: str = field(repr=False)
    """the user and the password, as in `user:password`"""
    database: tuple[str, int] | None = None
    """SQLite's file and its inode, since a server goes on with a file that was deleted; else None"""

    @property
    def dashboard(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.dashboard}/api"

    def is_running(self) -> bool:
        """Return whether it is this server that listens on the port, and not somebody else."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and self.port in find_listening_ports(process)
        except psutil.Error:
            return False

    def query(self) -> int:
        return query(self.port, self.credential)

    def is_broken(self) -> bool:
        """Return whether its database is gone. `RunError` if it does not answer at all."""
        for attempt in range(QUERY_ATTEMPTS):
            status = self.query()
            if status in FOUND:
                return self.database is not None and _inode(Path(self.database[0])) != self.database[1]
            time.sleep(attempt / 2)
        if status == 0:
            raise RunError(
                f"the local Prefect server at {self.dashboard} does not answer; stop it with: "
                "cifarflow server stop"
            )
        return True


def find_local_server() -> LocalServer | None:
    """Return the local server that runs now, if any."""
    return _ServerFiles(load_settings()).load()


def stop_local_server() -> LocalServer | None:
    """Stop the local server and return it; None if there was none. `RunError` while a command uses it."""
    files = _ServerFiles(load_settings())
    with files.startup_lock():
        server = files.load()
        if server is not None:
            with files.clients.open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunError("a command still uses the server; it stops when no command does") from None
                files.stop(server)
    return server


def find_unprotected_servers() -> list[int]:
    """Return the process ids of running servers of earlier versions, which do what anybody asks."""
    found = []
    for state in _ServerFiles(load_settings()).folder.glob("server-*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, psutil.Error):
            recorded = read_json(state)
            if psutil.Process(recorded["pid"]).create_time() == recorded["started"]:
                found.append(recorded["pid"])
    return found


def find_own_server(port: int, credential: str) -> LocalServer | None:
    """Return the server on the port if it is this user's and protected; None if the port is free.

    `RunError` for any other: a run executes what its server says.
    """
    if is_free(port):
        return None
    advice = f"choose another port: cifarflow serve --port {find_free_port()}"
    processes = find_listening_processes(port)
    if not processes or any(process.uids().effective != os.geteuid() for process in processes):
        raise RunError(f"port {port} is in use by a program of another user; {advice}")
    process = processes[0]
    if query(port, "") not in {401, 403} or query(port, credential) not in FOUND:
        raise RunError(
            f"port {port} is in use by process {process.pid}, which is no Prefect server that asks for the "
            f"password in PREFECT_API_AUTH_STRING; {advice}, or name it: "
            f"PREFECT_API_URL=http://{HOST}:{port}/api"
        )
    return LocalServer(process.pid, process.create_time(), port, credential)


def _find_database() -> tuple[str, int] | None:
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
    from sqlalchemy.engine import make_url

    url = make_url(PREFECT_API_DATABASE_CONNECTION_URL.value())
    inode = _inode(Path(url.database or "")) if url.get_backend_name() == "sqlite" else None
    return None if inode is None else (str(url.database), inode)


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None


class _ServerFiles:
    """The files by which commands find the server of a database and a version of Prefect, in its home."""

    def __init__(self, settings: "Settings") -> None:
        import prefect

        self.folder = settings.home / "cifarflow"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(self.folder)
        except OSError as error:
            raise RunError(
                f"cannot write to Prefect's home, {settings.home}: {error.strerror}; set PREFECT_HOME to a "
                "directory that can be written"
            ) from None
        url = settings.server.database.connection_url
        key = f"{prefect.__version__} {url.get_secret_value() if url else ''}"
        name = hashlib.sha256(key.encode()).hexdigest()[:8]
        # `server-NAME.json` was the state of servers without a password (find_unprotected_servers).
        self.state = self.folder / f"local-{name}.json"
        self.clients = self.folder / f"local-{name}.clients"
        self.log = self.folder / f"local-{name}.log"
        self._startup = self.folder / f"local-{name}.lock"

    @contextlib.contextmanager
    def startup_lock(self) -> Iterator[None]:
        """Let one command at a time start or stop the server."""
        try:
            with FileLock(self._startup, timeout=STARTUP_TIMEOUT_S):
                yield
        except Timeout:
            raise RunError(
                "another command has been starting the local Prefect server for too long"
            ) from None

    def load(self) -> LocalServer | None:
        """Return the server of the state file, if that is the user's own and the server runs."""
        try:
            server = LocalServer(**_read_private_json(self.state))
        except (OSError, ValueError, TypeError):
            return None
        return server if server.is_running() else None

    def save(self, server: LocalServer) -> None:
        with atomic_write(self.state) as temp_path:
            temp_path.touch(mode=0o600)
            temp_path.write_text(json.dumps(asdict(server)) + "\n", encoding="utf-8")

    def stop(self, server: LocalServer) -> None:
        _terminate(psutil.Process(server.pid))
        self.state.unlink(missing_ok=True)


def _close_to_others(folder: Path) -> None:
    """Let nobody else write into the folder or read it. `RunError` if it is another user's."""
    if folder.stat().st_uid != os.geteuid():
        raise RunError(f"{folder} belongs to another user; set PREFECT_HOME to a directory of your own")
    folder.chmod(0o700)
    if stat.S_IMODE(folder.stat().st_mode) & 0o022:
        raise RunError(f"others can write into {folder}; set PREFECT_HOME to a directory that only you can")


def _read_private_json(file: Path) -> Any:
    """Read the file; `ValueError` if another user owns it, or can read or change it."""
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as content:  # noqa: PTH123
        status = os.fstat(content.fileno())
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError(f"{file} is not private")
        return json.load(content)


@contextlib.contextmanager
def local_server(settings: "Settings", preload: Sequence[str], port: int | None) -> Iterator[LocalServer]:
    """Yield a local server for the block. With a port, it may be a protected one that the user started."""
    files = _ServerFiles(settings)
    idle_timeout_s = _idle_timeout_s()
    for pid in find_unprotected_servers():
        print(
            "cifarflow: a local Prefect server of an earlier version does what anybody on this machine asks; "
            f"it is not used, stop it with: kill {pid}",
            file=sys.stderr,
        )
    if not idle_timeout_s:
        started = port and find_own_server(port, _client_credential(settings))
        if not started:
            process, started = _start_process(files, settings, port, idle_timeout_s)
            atexit.register(_terminate, process)  # This runs after Prefect has sent its last events.
            _wait_until_ready(process, started, files, preload)
            if port and files.load() is None:
                files.save(started)  # `cifarflow server env` reads it beside `serve`.
        yield started
        return
    with files.clients.open("ab") as lock:
        # This lock is held until the command ends; the server ends when nobody holds it.
        fcntl.flock(lock, fcntl.LOCK_SH)
        with files.startup_lock():
            server = files.load()
            if server is not None and server.is_broken():
                print(
                    "cifarflow: the local Prefect server lost its database; starting another", file=sys.stderr
                )
                files.stop(server)
                server = None
            if server is None and port is not None:
                server = find_own_server(port, _client_credential(settings))
            if server is None:
                process, server = _start_process(files, settings, port, idle_timeout_s)
                _wait_until_ready(process, server, files, preload)
                files.save(replace(server, database=_find_database()))
        yield server


def _client_credential(settings: "Settings") -> str:
    secret = settings.api.auth_string or settings.server.api.auth_string
    return secret.get_secret_value() if secret else ""


def _idle_timeout_s() -> float:
    """Return after how many seconds without a command the server ends; 0 for a temporary server."""
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


def _start_process(
    files: _ServerFiles, settings: "Settings", port: int | None, idle_timeout_s: float
) -> tuple[psutil.Popen, LocalServer]:
    port = port or find_free_port()
    secret = settings.server.api.auth_string
    credential = (secret and secret.get_secret_value()) or f"cifarflow:{secrets.token_urlsafe(24)}"
    environment = os.environ | {  # Everybody can read a command line, so the password is in none.
        "PYTHONPATH": python_path(),  # The server runs this command's code, not the current folder's.
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_API_AUTH_STRING": credential,
        "PREFECT_SERVER_API_AUTH_STRING": credential,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{HOST}:{port}",
        "PREFECT_SERVER_UI_API_URL": "/api",  # The page may have come through a forwarded port.
    }
    arguments = [str(port), str(files.clients), str(idle_timeout_s)]
    with files.log.open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-P", "-m", "flows.server.process", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # A terminal's Ctrl-C goes to the command, not to its server.
        )
    return process, LocalServer(process.pid, process.create_time(), port, credential)


def _wait_until_ready(
    process: psutil.Popen, server: LocalServer, files: _ServerFiles, preload: Sequence[str]
) -> None:
    try:
        for module in preload:
            import_module(module)
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            if server.is_running() and server.query() in FOUND:
                return
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
