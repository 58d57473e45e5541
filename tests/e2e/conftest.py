"""What the tests of the whole share: the sample's project after `dvc repro`, a server."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from flows.cli.sample_workspace import prepare_sample_workspace
from tasks.overrides import parse_overrides, write_overrides
from tests.conftest import QUICK, ROOT, copy_of_project, enter_copy
from tests.e2e.deployment_server import DeploymentServer, run_server
from tests.flows.conftest import make_champion_workspace

PACKAGES = ROOT / "tests/javascript"
FAULTS = "faults"  # the property of a test's report that says how many were injected


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == FAULTS:
                terminalreporter.write_line(str(value))


def run_command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def reproduced_project(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The project with the sample as its data, in Git, after `dvc repro`, the command."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            (folder / "project").mkdir()
            patch.chdir(copy_of_project(folder / "project"))
            shutil.copy(ROOT / ".gitignore", ".")
            workspace = prepare_sample_workspace(Path())
            (workspace / "data").rename("data")
            (workspace / "params.yaml").rename("params.yaml")
            shutil.rmtree(workspace)
            write_overrides(Path("params.yaml"), parse_overrides(QUICK))
            Path("data.dvc").unlink()
            run_command("git", "init", "--quiet")
            run_command("git", "config", "user.email", "tests@example.org")
            run_command("git", "config", "user.name", "tests")
            run_command("dvc", "init", "--quiet")
            run_command("dvc", "add", "--quiet", "data")
            run_command("dvc", "repro", "--quiet")
            run_command("git", "add", "--all")
            run_command("git", "commit", "--quiet", "--message", "first")

    return once("reproduced", make) / "project"


@pytest.fixture
def project(reproduced_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    return enter_copy(reproduced_project, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def deployment_folder(
    once: Callable[[str, Callable[[Path], None]], Path],
    finished_workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of the deployments: the sample's workspace with a champion, ready to deploy."""
    champion = once("champion", lambda folder: make_champion_workspace(folder, finished_workspace)) / "sample"
    folder = shutil.copytree(champion, tmp_path_factory.mktemp("deployments") / "sample")
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="session")
def server(
    deployment_folder: Path, prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeploymentServer]:
    """A server with a work pool, every deployment, the automations and a worker.

    A run is Crashed after 60 s without heartbeats, of which one comes every 30 s: a busy server takes seconds
    to see an event. A crashed run goes on after 40 s. A retraining is missing after 15 s instead of 8 days.
    """
    automations = (ROOT / "automations.yaml").read_text()
    for seconds, fewer in ((100, 60), (120, 40), (691200, 15)):
        assert f"within: {seconds}\n" in automations or f"within: {seconds} #" in automations
        automations = automations.replace(f"within: {seconds}", f"within: {fewer}")
    impatient = tmp_path_factory.mktemp("automations") / "automations.yaml"
    impatient.write_text(automations)
    home = tmp_path_factory.mktemp("home")
    shutil.copy(prefect_database, home)
    with run_server(DeploymentServer(deployment_folder, home)) as server:
        server.request("work_pools/", {"name": "cifarflow", "type": "process", "concurrency_limit": 2})
        server.run_prefect("deploy", "--all")
        server.run_prefect("automation", "create", "--from-file", str(impatient))
        server.start_worker()
        yield server


@pytest.fixture
def own_workspace(finished_workspace: Path, tmp_path: Path) -> Path:
    """A workspace for the runs of one test, in which the pipeline ran once."""
    return shutil.copytree(finished_workspace, tmp_path / "workspace")


@pytest.fixture
def champion_copy(deployment_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace with a champion, which is the current folder."""
    return enter_copy(deployment_folder, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the packages of package-lock.json, by hash; installed again where that is newer."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("needs Node and npm; on Debian: apt-get install nodejs npm")
    with FileLock(tmp_path_factory.getbasetemp().parent / "npm.lock"):  # several workers may ask for it
        installed = PACKAGES / "node_modules" / ".package-lock.json"
        if (
            not installed.is_file()
            or installed.stat().st_mtime < (PACKAGES / "package-lock.json").stat().st_mtime
        ):
            process = subprocess.run(
                ["npm", "ci", "--ignore-scripts"], cwd=PACKAGES, capture_output=True, text=True, check=False
            )
            if process.returncode:
                skip_or_fail(
                    f"npm ci cannot install what tests/javascript names: {process.stderr.splitlines()[:1]}"
                )
    return PACKAGES


def skip_or_fail(reason: str) -> None:
    if "CIFARFLOW_REQUIRE_NODE" in os.environ:
        pytest.fail(f"CIFARFLOW_REQUIRE_NODE is set, but: {reason}")
    pytest.skip(reason)
