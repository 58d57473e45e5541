"""A Prefect server and a worker as processes of their own, and how tests talk to them."""

import base64
import contextlib
import copy
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import psutil
from ruamel.yaml import YAML

BIN = Path(sys.executable).parent
FINAL = {"Completed", "Failed", "Crashed", "Cancelled", "Skipped"}
"""names of the states in which a run stays; `Skipped` is a `Completed` one of its own"""


class DeploymentServer:
    """A Prefect server, the folder whose deployments it has, a worker, and requests to the server's API."""

    def __init__(self, folder: Path, home: Path, database: str | None = None) -> None:
        self.folder, self.home = folder, home
        self.port = find_free_port()
        self.env = os.environ | {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(home),
            "PWD": str(folder),  # as a shell sets it
            "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_LOOP_SECONDS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_CLI_PROMPT": "false",
            "OMP_NUM_THREADS": "1",
        }
        if database:
            self.env["PREFECT_API_DATABASE_CONNECTION_URL"] = database
        self.env.pop("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", None)
        self.headers = {"Content-Type": "application/json"}
        self._server: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None

    @property
    def worker_log(self) -> Path:
        return self.home / "worker.log"

    def start(self) -> None:
        command = [str(BIN / "prefect"), "server", "start", "--port", str(self.port)]
        self._server = start_process(command, self, self.home / "server.log")
        wait_until(self.is_healthy)

    def stop(self) -> None:
        if self._server is not None:
            stop_process(self._server)

    def start_worker(self, *options: str) -> None:
        command = [str(BIN / "prefect"), "worker", "start", "--pool", "cifarflow", *options]
        self._worker = start_process(command, self, self.worker_log)

    def at(self, folder: Path, **env: str) -> "DeploymentServer":
        """The same server as seen from another machine: a folder, and a worker that may be started there."""
        machine = copy.copy(self)
        machine.folder = machine.home = folder
        machine.env = self.env | {"PWD": str(folder), "TMPDIR": str(folder)} | env
        machine._server = machine._worker = None
        return machine

    def stop_worker(self) -> None:
        if self._worker is not None:
            stop_process(self._worker)

    def kill_worker(self) -> None:
        """Kill the worker and its runs at once, as if the machine had died."""
        assert self._worker is not None
        kill_all(
            [*psutil.Process(self._worker.pid).children(recursive=True), psutil.Process(self._worker.pid)]
        )
        self._worker.wait(60)

    def read_worker_processes(self) -> list[psutil.Process]:
        """Those of the runs that the worker has started and that have not ended."""
        assert self._worker is not None
        return psutil.Process(self._worker.pid).children(recursive=True)

    def is_healthy(self) -> bool:
        try:
            return bool(self.request("health"))
        except OSError:
            return False

    def request(self, path: str, body: Any = None) -> Any:
        """The API's answer to GET, or to POST where there is a body. Retries 503, as Prefect's clients do."""
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(5):
            try:
                with urlopen(Request(url, data, self.headers), timeout=30) as answer:
                    return json.loads(answer.read() or "null")
            except HTTPError as error:  # 503: a transaction met another one's lock on SQLite
                if error.code != 503 or attempt == 4:
                    raise
                time.sleep(0.5)
        raise AssertionError

    def log_in(self) -> None:
        """Send with each request what the local server asks for; Prefect's commands get it as well."""
        shown = subprocess.run(
            [str(BIN / "cifarflow"), "server", "env"],
            env={name: value for name, value in self.env.items() if name != "PREFECT_API_URL"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        variables = dict(line.removeprefix("export ").split("=", 1) for line in shown.splitlines())
        self.env |= {name: shlex.split(value)[0] for name, value in variables.items()}
        token = base64.b64encode(self.env["PREFECT_API_AUTH_STRING"].encode()).decode()
        self.headers |= {"Authorization": f"Basic {token}", "Prefect-Csrf-Client": "tests"}
        self.headers["Prefect-Csrf-Token"] = self.request("csrf-token?client=tests")["token"]

    def run_prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "prefect"), "--no-prompt", *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def read_runs(self, **filters: Any) -> list[dict[str, Any]]:
        return list(self.request("flow_runs/filter", {"sort": "START_TIME_ASC", **filters}))

    def start_run(self, deployment: str, start: str | None = None, **parameters: Any) -> str:
        """The id of a new run of the deployment, which starts at once or at a time."""
        found = self.request(f"deployments/name/{deployment}")
        body: dict[str, Any] = {"parameters": parameters}
        if start is not None:
            body["state"] = {"type": "SCHEDULED", "state_details": {"scheduled_time": start}}
        return str(self.request(f"deployments/{found['id']}/create_flow_run", body)["id"])

    def set_states(self, run: str, *types: str) -> None:
        """One after the other, whatever the server's rules say."""
        for kind in types:
            self.request(f"flow_runs/{run}/set_state", {"state": {"type": kind}, "force": True})

    def emit_events(self, *names: str) -> None:
        now = datetime.now(UTC).isoformat()
        resource = {"prefect.resource.id": "tests", "cifarflow.flow": "drift"}
        self.request(
            "events", [{"id": str(uuid4()), "occurred": now, "event": n, "resource": resource} for n in names]
        )

    def emit_heartbeat(self, run: str) -> None:
        event = {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {"prefect.resource.id": "prefect.tag.cifarflow", "prefect.resource.role": "tag"},
            ],
        }
        self.request("events", [event])

    def read_events(self, name: str, run: str) -> list[dict[str, Any]]:
        """Events of this name that have to do with the run."""
        events = self.request("events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        return [event for event in events if run in json.dumps([event["resource"], event["related"]])]

    def save_secret(self, name: str, value: str) -> None:
        """As a block; blocks of this type come with the server."""
        type_id = self.request("block_types/slug/secret")["id"]
        schemas = self.request(
            "block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [type_id]}}}
        )
        document = {"block_type_id": type_id, "block_schema_id": schemas[0]["id"]}
        self.request("block_documents/", document | {"name": name, "data": {"value": value}})

    def read_state(self, run: str) -> tuple[str, str]:
        """Name and message."""
        state = self.request(f"flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def read_state_names(self, run: str) -> list[str]:
        """Of all states, the first state first."""
        states = self.request(f"flow_run_states/?flow_run_id={run}")
        return [state["name"] for state in sorted(states, key=lambda state: str(state["timestamp"]))]

    def wait_until_completed(self, run: str, timeout_s: float = 300, name: str = "Completed") -> str:
        """Wait for the run's end; return its last message."""
        wait_until(lambda: self.read_state(run)[0] in FINAL, timeout_s)
        found, message = self.read_state(run)
        assert found == name, message
        return message

    def read_log(self, run: str) -> str:
        filters = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return "\n".join(line["message"] for line in self.request("logs/filter", filters))


@contextlib.contextmanager
def run_server(server: DeploymentServer) -> Iterator[DeploymentServer]:
    """The server, started; at the end it is stopped, and its worker with it."""
    try:
        server.start()
        yield server
    finally:
        server.stop_worker()
        server.stop()


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], Any], timeout_s: float = 300) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            value = condition()
        except OSError:  # a server that starts or ends does not answer
            value = None
        if value:
            return value
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.1)


def start_process(command: list[str], server: DeploymentServer, log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, with signals at their defaults: `nohup` and cron have some of them ignored."""

    def reset_signals() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=server.folder,
            env=server.env,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=reset_signals,  # noqa: PLW1509
        )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL for it and whatever it started."""
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    kill_all(children)
    process.kill()
    process.wait(60)


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def read_deployment_names(folder: Path) -> set[str]:
    """The names in the folder's prefect.yaml."""
    return {entry["name"] for entry in YAML(typ="safe").load(folder / "prefect.yaml")["deployments"]}
