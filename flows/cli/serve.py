"""`cifarflow serve`: serve prefect.yaml's deployments locally, starting a Prefect server if needed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ruamel.yaml import YAML

from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

DEPLOYMENTS = Path("prefect.yaml")
AUTOMATIONS = Path("automations.yaml")
HOST = "127.0.0.1"
PORT = 4200
MAX_CONCURRENT_RUNS = 2  # one runs, and one waits for it or is rejected
STARTUP_TIMEOUT_S = 120
SHUTDOWN_TIMEOUT_S = 20


def serve_deployments(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, which stop runs, schedules and a server that was started here."""
    for file in (DEPLOYMENTS, AUTOMATIONS):
        if not file.is_file():
            raise InputError(f"{Path.cwd()} has no {file}")
    with _ensure_server(port) as url:
        os.environ["PREFECT_API_URL"] = url  # before Prefect is imported, and for the runs' own processes
        for name, value in _job_env().items():
            os.environ.setdefault(name, value)
        import prefect

        deployments = [_to_deployment(entry) for entry in _load_deployments()]
        _ensure_automations()
        print(f"serving {', '.join(deployment.name for deployment in deployments)}", flush=True)
        print(f"dashboard: {url.removesuffix('/api')}; stop with Ctrl-C", flush=True)
        prefect.serve(*deployments, print_starting_message=False, limit=MAX_CONCURRENT_RUNS)
    print("stopped; schedules are paused until the next cifarflow serve")


def _load_deployments() -> list[dict[str, Any]]:
    try:
        entries: list[dict[str, Any]] = YAML(typ="safe").load(DEPLOYMENTS)["deployments"]
    except Exception as error:
        raise InputError(f"{DEPLOYMENTS} cannot be read: {' '.join(str(error).split())}") from error
    return entries


def _job_env() -> dict[str, str]:
    """The environment that prefect.yaml gives the runs of a work pool."""
    definitions = YAML(typ="safe").load(DEPLOYMENTS)["definitions"]
    environment: dict[str, str] = definitions["here"]["job_variables"]["env"]
    return environment


def _to_deployment(entry: dict[str, Any]) -> "RunnerDeployment":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule["cron"], timezone=schedule.get("timezone")),
            slug=schedule.get("slug"),
        )
        for schedule in entry.get("schedules", [])
    ]
    deployment: RunnerDeployment = flow.to_deployment(
        entry["name"],
        schedules=schedules or None,
        parameters=entry.get("parameters"),
        description=entry.get("description"),
    )
    return deployment


def _ensure_automations() -> None:
    """Create the automations of automations.yaml that the server does not have by name."""
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client

    for entry in YAML(typ="safe").load(AUTOMATIONS)["automations"]:
        with get_client(sync_client=True) as client:
            known = client.request("POST", "/automations/filter", json={}).json()
        if entry["name"] not in {automation["name"] for automation in known}:
            Automation(**entry).create()


@contextlib.contextmanager
def _ensure_server(port: int) -> Iterator[str]:
    """Yield the API URL of the configured server, of one that runs here, or of one started for the block."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        if not _is_healthy(url):
            raise RunError(f"no Prefect server responds at {urlsplit(url).hostname} (PREFECT_API_URL)")
        yield url
        return
    url = f"http://{HOST}:{port}/api"
    if _is_healthy(url):
        print(f"using the server at {HOST}:{port}")
        yield url
        return
    print(f"starting a Prefect server at {HOST}:{port} (about 10 s)", flush=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    environment = os.environ | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_API_URL": url}
    log = Path(".cifarflow-server.log")
    # In its own session: a terminal's Ctrl-C goes to all of its processes, and the server must end after the
    # runs. `prefect server start --background` would do that, too, but keeps no log of a failed start.
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603
            command, stdout=output, stderr=output, env=environment, start_new_session=True
        ) as server,
    ):
        try:
            _wait_until_healthy(server, url, log)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(SHUTDOWN_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


def _wait_until_healthy(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while not _is_healthy(url):
        if server.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RunError(f"the server did not start: {lines[-1] if lines else 'no output'} (see {log})")
        time.sleep(0.2)


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 - the URL that the user set
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False
