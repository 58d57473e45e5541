"""`cifarflow serve`: serve prefect.yaml's deployments locally, starting a Prefect server if needed."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from flows.server.connection import connect_to_server
from flows.server.local import api_url, find_local_server, is_healthy, stop_local_server
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.deployments.runner import RunnerDeployment

DEPLOYMENTS = Path("prefect.yaml")
AUTOMATIONS = Path("automations.yaml")
MAX_CONCURRENT_RUNS = 2  # one runs, and one waits for it or is rejected


def serve_deployments(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, which stop runs, schedules and a server that was started here."""
    for file in (DEPLOYMENTS, AUTOMATIONS):
        if not file.is_file():
            raise InputError(f"{Path.cwd()} has no {file}")
    if not os.environ.get("PREFECT_API_URL") and is_healthy(api_url(port)):
        os.environ["PREFECT_API_URL"] = api_url(port)  # a server that the user has started
    with connect_to_server(port=port) as url:
        for name, value in _job_env().items():
            os.environ.setdefault(name, value)
        import prefect

        deployments = [_to_deployment(entry) for entry in _load_deployments()]
        _ensure_automations()
        print(f"serving {', '.join(deployment.name for deployment in deployments)}", flush=True)
        print(f"dashboard: {url.removesuffix('/api')}; stop with Ctrl-C", flush=True)
        prefect.serve(*deployments, print_starting_message=False, limit=MAX_CONCURRENT_RUNS)
    server = find_local_server()
    if server is not None and server.api_url == url:
        with contextlib.suppress(RunError):  # another command uses it
            stop_local_server()
    print("stopped; schedules are paused until the next cifarflow serve")


def _load_deployments() -> list[dict[str, Any]]:
    """Those that run in this directory, not in a clone."""
    try:
        entries: list[dict[str, Any]] = YAML(typ="safe").load(DEPLOYMENTS)["deployments"]
    except Exception as error:
        raise InputError(f"{DEPLOYMENTS} cannot be read: {' '.join(str(error).split())}") from error
    return [entry for entry in entries if "pull" not in entry]


def _job_env() -> dict[str, str]:
    """The environment that prefect.yaml gives the runs of a work pool."""
    definitions = YAML(typ="safe").load(DEPLOYMENTS)["definitions"]
    environment: dict[str, str] = definitions["here"]["job_variables"]["env"]
    return environment


def _to_deployment(entry: dict[str, Any]) -> "RunnerDeployment":
    from prefect.events import DeploymentTriggerTypes
    from prefect.flows import load_flow_from_entrypoint
    from pydantic import TypeAdapter

    flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
    deployment: RunnerDeployment = flow.to_deployment(
        entry["name"],
        schedules=[_to_schedule(schedule) for schedule in entry.get("schedules", [])] or None,
        triggers=TypeAdapter(list[DeploymentTriggerTypes]).validate_python(entry.get("triggers", [])),
        parameters=entry.get("parameters"),
        description=entry.get("description"),
    )
    return deployment


def _to_schedule(entry: dict[str, Any]) -> "DeploymentScheduleCreate":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    timing = {key: value for key, value in entry.items() if key not in {"slug", "active"}}
    schedule = CronSchedule(**timing) if "cron" in timing else IntervalSchedule(**timing)
    return DeploymentScheduleCreate(
        schedule=schedule, slug=entry.get("slug"), active=entry.get("active", True)
    )


def _ensure_automations() -> None:
    """Create the automations of automations.yaml that the server does not have by name."""
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client

    for entry in YAML(typ="safe").load(AUTOMATIONS)["automations"]:
        with get_client(sync_client=True) as client:
            known = client.request("POST", "/automations/filter", json={}).json()
        if entry["name"] not in {automation["name"] for automation in known}:
            Automation(**entry).create()
