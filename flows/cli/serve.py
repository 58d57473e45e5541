"""The command `cifarflow serve` serves prefect.yaml's deployments, and starts a server if needed."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from ruamel.yaml import YAML

from flows.cli.project import enter_project
from flows.server.connection import connect_to_server
from flows.server.local import LocalServer, find_local_server, stop_local_server
from tasks.processes import TERMINATION_SIGNALS
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.deployments.runner import RunnerDeployment

DEPLOYMENTS = Path("prefect.yaml")
AUTOMATIONS = Path("automations.yaml")
SERVER_CHECK_INTERVAL_S = 1.0
MAX_CONCURRENT_RUNS = 2  # One runs, and one waits for it or is rejected.


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=4200,
    help="Port of a server on 127.0.0.1 (default: 4200).",
)
def serve(port: int) -> None:
    """Serve the deployments from this directory, starting a Prefect server if none is running.

    Stop with Ctrl-C.

    \b
    Example:
      cifarflow serve
    """
    enter_project()
    serve_deployments(port)


def serve_deployments(port: int) -> None:
    """Serve until Ctrl-C or SIGTERM, which stop runs, schedules and a server that was started here."""
    for file in (DEPLOYMENTS, AUTOMATIONS):
        if not file.is_file():
            raise InputError(f"{Path.cwd()} has no {file}")
    with connect_to_server(port=port) as url:
        server = find_local_server()
        if server is not None and server.api_url != url:
            server = None  # PREFECT_API_URL names another one.
        with contextlib.suppress(KeyboardInterrupt):
            for name, value in _job_env().items():
                os.environ.setdefault(name, value)
            deployments = [_to_deployment(entry) for entry in _load_deployments()]
            _ensure_automations()
            _warn_of_work_pools(deployments)
            print(f"serving {', '.join(deployment.name for deployment in deployments)}", flush=True)
            print(f"dashboard: {url.removesuffix('/api')}; stop with Ctrl-C", flush=True)
            setup = 'eval "$(cifarflow server env)"' if server else f"export PREFECT_API_URL={url}"
            print(f"in another shell: {setup} && prefect deployment run retrain/retrain --watch", flush=True)
            if server:
                print("the dashboard asks for the password, which `cifarflow server env` prints", flush=True)
            asyncio.run(_run_until_signal(deployments, server))
    if server:
        with contextlib.suppress(RunError):  # Another command uses it.
            stop_local_server()
    print("stopped; schedules are paused until the next cifarflow serve")


async def _run_until_signal(deployments: list["RunnerDeployment"], server: LocalServer | None) -> None:
    """Serve until a signal, and end the runs first. Prefect's runner would break off at any but Ctrl-C.

    `RunError` where the local server ends: the runner would wait for it, and print tracebacks meanwhile.
    """
    from prefect.runner import Runner

    runner = Runner(pause_on_shutdown=True, limit=MAX_CONCURRENT_RUNS)

    async def register_and_start() -> None:
        for deployment in deployments:
            await runner.aadd_deployment(deployment)
        await runner.start()

    serving = asyncio.create_task(register_and_start())
    loop = asyncio.get_running_loop()

    def stop(*_: object) -> None:
        runner.pause_on_shutdown = server is None or server.is_running()
        loop.call_soon_threadsafe(serving.cancel)

    async def stop_without_server() -> None:
        while server is None or server.is_running():  # noqa: ASYNC110 - another process, which sets no event
            await asyncio.sleep(SERVER_CHECK_INTERVAL_S)
        stop()

    runner.handle_sigterm = stop  # type: ignore[method-assign]
    for name in TERMINATION_SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    watching = asyncio.create_task(stop_without_server())
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    watching.cancel()
    if server is not None and not server.is_running():
        raise RunError(
            "the local Prefect server has ended, so nothing is served; start both: cifarflow serve"
        )


def _load_deployments() -> list[dict[str, Any]]:
    """Read the deployments that run in this directory, not in a clone."""
    try:
        entries: list[dict[str, Any]] = YAML(typ="safe").load(DEPLOYMENTS)["deployments"]
    except Exception as error:
        raise InputError(f"{DEPLOYMENTS} cannot be read: {' '.join(str(error).split())}") from error
    return [entry for entry in entries if "pull" not in entry]


def _job_env() -> dict[str, str]:
    """Read the environment that prefect.yaml gives to the runs of a work pool."""
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
        tags=entry.get("tags"),
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


def _warn_of_work_pools(deployments: list["RunnerDeployment"]) -> None:
    """Say which deployments were on a work pool, where `prefect deploy` has put them, and are served now."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    moved: list[str] = []
    with get_client(sync_client=True) as client:
        for deployment in deployments:
            with contextlib.suppress(ObjectNotFound):
                known = client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}")
                moved += [deployment.name] if known.work_pool_name else []
    if moved:
        print(
            f"on a work pool so far, and served here from now on: {', '.join(moved)}; "
            "prefect deploy --all puts them back",
            flush=True,
        )


def _ensure_automations() -> None:
    """Create the automations of automations.yaml, renew those that the server has otherwise, delete old ones.

    One that is the same stays as it is: what it has seen so far, such as a heartbeat, would be lost.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import Automation, AutomationCore

    try:
        content = YAML(typ="safe").load(AUTOMATIONS)
        automations = [AutomationCore.model_validate(entry) for entry in content["automations"]]
        removed = {str(name) for name in content.get("removed", [])}
    except Exception as error:
        raise InputError(f"{AUTOMATIONS} cannot be read: {' '.join(str(error).split())}") from error
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/automations/filter", json={"limit": 200}).json()
        known = {found["name"]: Automation.model_validate(found) for found in answer}
        for automation in automations:
            if automation.name not in known:
                client.create_automation(automation)
            elif automation.model_dump() != known[automation.name].model_dump(exclude={"id"}):
                client.update_automation(known[automation.name].id, automation)
        for name in removed & known.keys():
            client.delete_automation(known[name].id)
