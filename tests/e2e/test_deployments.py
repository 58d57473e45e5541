"""The deployments on a real server with a real worker: deploy, run, schedule, kill, queue, serve."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml
from filelock import FileLock

from flows.runtime.sample_workspace import prepare_sample_workspace
from tests.conftest import QUICK, ROOT, copy_of_project

BIN = Path(sys.executable).parent
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
SLOW = {"train": {"epochs": 60}}


class Server:
    """A Prefect server, the folder whose deployments it has, and how to ask it."""

    def __init__(self, folder: Path, home: Path, database: str | None = None) -> None:
        self.folder, self.home = folder, home
        self.port = free_port()
        self.env = os.environ | {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(home),
            "PWD": str(folder),  # as a shell sets it
            "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_CLI_PROMPT": "false",
            "OMP_NUM_THREADS": "1",
        }
        if database:
            self.env["PREFECT_API_DATABASE_CONNECTION_URL"] = database
        self.env.pop("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", None)

    def ask(self, path: str, body: Any = None) -> Any:
        request = Request(
            f"http://127.0.0.1:{self.port}/api/{path}", method="GET" if body is None else "POST"
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def prefect(self, *arguments: str, check: bool = True) -> str:
        command = [str(BIN / "prefect"), "--no-prompt", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=240, check=False
        )
        assert not (check and done.returncode), done.stdout + done.stderr
        return done.stdout

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        return list(self.ask("flow_runs/filter", {"sort": "START_TIME_ASC", **wanted}))

    def start_run(self, deployment: str, parameters: dict[str, Any] | None = None) -> str:
        found = self.ask(f"deployments/name/{deployment}")
        return str(
            self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters or {}})["id"]
        )

    def state(self, run: str) -> tuple[str, str]:
        state = self.ask(f"flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def log(self, run: str) -> str:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return "\n".join(line["message"] for line in self.ask("logs/filter", wanted))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(reached: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = reached()
        except OSError:  # a server that starts answers late, or with 503
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.3)


@contextmanager
def process(command: list[str], server: Server, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command, cwd=server.folder, env=server.env, stdout=output, stderr=output, start_new_session=True
        ) as started,
    ):
        try:
            yield started
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGTERM)
                try:
                    started.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(started.pid, signal.SIGKILL)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    command = [str(BIN / "prefect"), "server", "start", "--port", str(server.port)]
    with process(command, server, server.home / "server.log"):
        until(lambda: answers(server))
        yield server


def answers(server: Server) -> bool:
    try:
        return bool(server.ask("health"))
    except OSError:
        return False


def worker_of(server: Server) -> Any:
    command = [str(BIN / "prefect"), "worker", "start", "--pool", "cifarflow"]
    return process(command, server, server.home / "worker.log")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own, whose data are a generated sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy_of_project(tmp_path_factory.mktemp("project")))
        folder = prepare_sample_workspace(Path()).resolve()
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a work pool, every deployment and a worker."""
    with running(Server(folder, tmp_path_factory.mktemp("home"))) as server:
        server.prefect("work-pool", "create", "cifarflow", "--type", "process")
        server.prefect("work-pool", "set-concurrency-limit", "cifarflow", "2")
        server.prefect("deploy", "--all")
        with worker_of(server):
            yield server


def test_every_deployment_has_its_form_and_retrain_its_schedule(server: Server) -> None:
    found = {one["name"]: one for one in server.ask("deployments/filter", {})}
    from flows.toys.catalog import TOYS

    assert found.keys() == {"pipeline", "retrain", "rollback", *(toy.replace("_", "-") for toy in TOYS)}
    schema = found["pipeline"]["parameter_openapi_schema"]
    assert schema["definitions"]["Train"]["properties"]["epochs"]["anyOf"][0]["minimum"] == 1
    (schedule,) = found["retrain"]["schedules"]
    assert (schedule["slug"], schedule["schedule"]["timezone"]) == ("weekly", "Europe/Berlin")
    # A clock change: 3 a.m. stays 3 a.m., in winter and in summer.
    assert schedule["schedule"]["cron"] == "0 3 * * 1"
    # A deploy leaves alone what somebody has set.
    server.prefect("deployment", "schedule", "pause", "retrain/retrain", schedule["id"])
    server.prefect("deploy", "--name", "retrain")
    (schedule,) = server.ask("deployments/name/retrain/retrain")["schedules"]
    assert schedule["slug"] == "weekly"


def test_three_in_the_morning_stays_three_when_the_clocks_change() -> None:
    import asyncio
    from datetime import UTC, datetime

    from prefect.server.schemas.schedules import CronSchedule

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (entry,) = (one["schedules"][0] for one in deployments if one["name"] == "retrain")
    schedule = CronSchedule(cron=entry["cron"], timezone=entry["timezone"])
    dates = asyncio.run(schedule.get_dates(60, datetime(2026, 1, 1, tzinfo=UTC)))
    assert {(date.weekday(), date.hour, date.minute) for date in dates} == {(0, 3, 0)}
    assert {date.utcoffset() for date in dates} == {datetime_offset(1), datetime_offset(2)}
    assert len({date.date() for date in dates}) == 60


def datetime_offset(hours: int) -> Any:
    from datetime import timedelta

    return timedelta(hours=hours)


def test_pipeline_and_retrain_run_on_the_worker(server: Server) -> None:
    overrides: dict[str, Any] = {}
    for assignment in QUICK:
        key, _, value = assignment.partition("=")
        section, _, name = key.partition(".")
        overrides.setdefault(section, {})[name] = yaml.safe_load(value)
    shown = server.prefect(
        "deployment", "run", "pipeline/pipeline", "--param", f"overrides={json.dumps(overrides)}", "--watch"
    )
    assert "Completed" in shown or "finished successfully" in shown, shown
    server.prefect("deployment", "run", "retrain/retrain", "--watch")
    run = server.runs(flows={"name": {"any_": ["retrain"]}})[-1]
    assert run["state"]["message"] == "promoted: the first model"
    assert (server.folder / "registry/ledger.jsonl").read_text().count("\n") == 1


def test_a_schedule_fires_and_gives_way_to_a_run_at_work(server: Server) -> None:
    def fired() -> list[dict[str, Any]]:
        runs = server.runs(flows={"name": {"any_": ["retrain"]}})
        return [run for run in runs if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]

    with FileLock(server.folder / ".cifarflow.lock"):
        server.prefect("deployment", "schedule", "create", "retrain/retrain", "--interval", "20")
        cancelled = until(lambda: [run for run in fired() if run["state_type"] == "CANCELLED"])
    assert "is at work in this folder" in cancelled[0]["state"]["message"]
    done = until(lambda: [run for run in fired() if run["state_type"] == "COMPLETED"])
    assert done[0]["state"]["name"] == "Skipped"
    server.prefect("deployment", "schedule", "clear", "-y", "retrain/retrain")


def test_a_second_manual_run_waits(server: Server) -> None:
    with FileLock(server.folder / ".cifarflow.lock"):
        run = server.start_run("pipeline/pipeline")
        until(lambda: "waiting for" in server.log(run))
        assert server.state(run)[0] == "Running"
    assert until(lambda: server.state(run)[0] == "Completed")


def test_a_killed_run_is_crashed_and_the_next_goes_on(server: Server) -> None:
    lock = server.folder / ".cifarflow.lock"
    run = server.start_run("retrain/retrain", {"overrides": SLOW})
    checkpoints = server.folder / "artifacts/checkpoints"
    until(lambda: len([*checkpoints.rglob("epoch-*.pt")]) >= 2)
    pid = int(lock.read_text().split()[1])
    psutil.Process(pid).kill()
    until(lambda: server.state(run)[0] == "Crashed", 60)
    with FileLock(lock, timeout=1):
        pass
    again = server.start_run("retrain/retrain", {"overrides": SLOW})
    assert until(lambda: server.state(again)[0] in {"Completed", "Failed"}, 240)
    assert server.state(again)[0] == "Completed", server.state(again)
    said = server.ask("logs/filter", {"logs": {"level": {"ge_": 20}}, "sort": "TIMESTAMP_DESC", "limit": 200})
    assert [line for line in said if line["message"].startswith("going on after epoch")]


def test_a_run_whose_worker_died_with_it_is_crashed_all_the_same(folder: Path, tmp_path: Path) -> None:
    """Nobody is left to say so: the automation misses the heartbeats."""
    with running(Server(folder, tmp_path)) as server:
        server.env["PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY"] = "PT5S"
        server.prefect("work-pool", "create", "cifarflow", "--type", "process")
        server.prefect("deploy", "--name", "pipeline")
        server.prefect("automation", "create", "--from-file", "automations.yaml")
        with worker_of(server) as worker:
            run = server.start_run("pipeline/pipeline", {"overrides": {"train": {"epochs": 200}}})
            checkpoints = folder / "artifacts/checkpoints"
            before = {*checkpoints.rglob("epoch-*.pt")}
            until(lambda: {*checkpoints.rglob("epoch-*.pt")} - before)
            time.sleep(35)  # a heartbeat
            for child in psutil.Process(worker.pid).children(recursive=True):
                child.kill()
            worker.kill()
        assert server.state(run)[0] == "Running"
        until(lambda: server.state(run)[0] == "Crashed", 240)
        assert "no heartbeat" in server.state(run)[1]
    with FileLock(folder / ".cifarflow.lock", timeout=1):
        pass


def test_ten_runs_at_once(server: Server) -> None:
    runs = [server.start_run("neuron/neuron") for _ in range(10)]
    until(lambda: {server.state(run)[0] for run in runs} == {"Completed"}, 240)
    # Neither the runs nor the worker see it. (The server's own log may: Prefect begins transactions that
    # read first, and lets clients try again.)
    assert "database is locked" not in (server.home / "worker.log").read_text()
    assert not [run for run in runs if "database is locked" in server.log(run)]


def test_a_restart_of_the_server_loses_no_run(folder: Path, tmp_path: Path) -> None:
    server = Server(folder, tmp_path)
    with running(server):
        server.prefect("work-pool", "create", "cifarflow", "--type", "process")
        server.prefect("work-pool", "set-concurrency-limit", "cifarflow", "2")
        server.prefect("deploy", "--name", "retrain")
        worker = worker_of(server)
        with worker:
            run = server.start_run("retrain/retrain", {"overrides": {"train": {"epochs": 61}}})
            until(lambda: server.state(run)[0] == "Running")
            checkpoints = folder / "artifacts/checkpoints"
            until(lambda: [*checkpoints.rglob("epoch-*.pt")])
            (leader,) = (
                p
                for p in psutil.process_iter(["cmdline"])
                if "start" in (p.info["cmdline"] or [])
                and str(server.port) in (p.info["cmdline"] or [])
                and "server" in p.info["cmdline"]
            )
            os.killpg(leader.pid, signal.SIGTERM)
            leader.wait(30)
            with running(server):
                until(lambda: server.state(run)[0] in {"Completed", "Failed", "Crashed"}, 240)
                assert server.state(run)[0] == "Completed", server.state(run)


def test_serve_is_all_in_one(folder: Path, tmp_path: Path) -> None:
    server = Server(folder, tmp_path)
    server.env.pop("PREFECT_API_URL")
    command = [str(BIN / "cifarflow"), "serve", "--port", str(server.port)]
    log = tmp_path / "serve.log"
    with process(command, server, log) as serving:
        until(lambda: "end it: Ctrl-C" in log.read_text())
        until(lambda: len(server.ask("deployments/filter", {})) == 11)
        run = server.start_run("neuron/neuron", {"w1": 2.0})
        until(lambda: server.state(run)[0] == "Completed")
        names = {one["name"] for one in server.ask("automations/filter", {})}
        assert names == {"cifarflow: a run that fell silent has crashed"}
        os.kill(serving.pid, signal.SIGINT)
        assert serving.wait(60) in {0, 130}
    assert "Traceback" not in log.read_text()
    assert not answers(server)


@pytest.mark.skipif(POSTGRES is None, reason="needs PostgreSQL; on Debian: apt-get install postgresql")
def test_on_postgresql(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert POSTGRES is not None
    home = tmp_path_factory.mktemp("postgres")
    for parent in (home, *home.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp") and os.geteuid() == 0:
            parent.chmod(0o755)
    data, port = home / "data", free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(home, "postgres")

    def postgres(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=home)

    postgres(str(POSTGRES / "initdb"), "-D", str(data), "-U", "prefect", "--auth=trust")
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1"
    control = str(POSTGRES / "pg_ctl")
    postgres(control, "-D", str(data), "-o", options, "-l", str(home / "log"), "-w", "start")
    try:
        database = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        with running(Server(folder, tmp_path_factory.mktemp("home"), database)) as server:
            server.prefect("work-pool", "create", "cifarflow", "--type", "process")
            server.prefect("deploy", "--all")
            with worker_of(server):
                runs = [server.start_run("neuron/neuron") for _ in range(3)]
                until(lambda: {server.state(run)[0] for run in runs} == {"Completed"})
    finally:
        postgres(control, "-D", str(data), "-m", "immediate", "stop")
