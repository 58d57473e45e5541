"""A server on PostgreSQL, which several workers are better off with."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.e2e.deployment_server import DeploymentServer, find_free_port, run_server, wait_until

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)

pytestmark = [pytest.mark.server, pytest.mark.postgres, pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.skipif(POSTGRES is None, reason="needs PostgreSQL; on Debian: apt-get install postgresql")
def test_server_on_postgresql_runs_deployments(
    deployment_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert POSTGRES is not None
    home, temporary = tmp_path_factory.mktemp("postgres"), Path(tempfile.gettempdir())
    for parent in (home, *home.parents):
        if temporary in parent.parents and os.geteuid() == 0:
            parent.chmod(0o755)
    data, port = home / "data", find_free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(home, "postgres")

    def run_postgres(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd=home, timeout=120)

    run_postgres(str(POSTGRES / "initdb"), "-D", str(data), "-U", "prefect", "--auth=trust", "--no-sync")
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = str(POSTGRES / "pg_ctl")
    run_postgres(control, "-D", str(data), "-o", options, "-l", str(home / "log"), "-w", "start")
    try:
        database = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        with run_server(
            DeploymentServer(deployment_folder, tmp_path_factory.mktemp("home"), database)
        ) as server:
            server.run_prefect("work-pool", "create", "cifarflow", "--type", "process")
            server.run_prefect("deploy", "--name", "neuron")
            server.start_worker()
            runs = [server.start_run("neuron/neuron") for _ in range(3)]
            wait_until(lambda: {server.read_state(run)[0] for run in runs} == {"Completed"})
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):  # it has ended by itself
            run_postgres(control, "-D", str(data), "-m", "immediate", "stop")
