"""A Dask cluster that stands: scheduler and workers as processes of their own, in other folders."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import psutil
import pytest
from distributed import Client, Security
from safetensors.torch import save_file

from flows.sweep import run_sweep
from flows.trainings.cluster import check_workers
from models.networks import build_network
from tasks.training.compile import Machine
from tasks.workspace.errors import InputError, RunError
from tests.brightness import build_config, build_params, save_brightness_splits
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
CONFIG = build_config()
DASK = str(Path(sys.executable).with_name("dask"))


@contextmanager
def dask_process(folder: Path, *arguments: str, ready: str, **environment: str) -> Iterator[str]:
    """A `dask` command in a new folder of its own; yields what `ready` found in its log."""
    folder.mkdir()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [DASK, *arguments], cwd=folder, env=os.environ | environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(ready, log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for child in children:
            if child.is_running():
                child.kill()


@pytest.fixture(scope="module")
def dask_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The certificate and the settings of docs/scale.md, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("dask")
    text = (ROOT / "docs" / "scale.md").read_text()
    (commands,) = re.findall(r"```sh\n(umask.*?)```", text, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    subprocess.run(["bash", "-ec", commands], cwd=folder, check=True, capture_output=True)
    assert (folder / "dask.key").stat().st_mode & 0o777 == 0o600
    settings = settings.replace("/home/ME/.config/dask", str(folder)).replace("/home/ME/.cache", str(folder))
    (folder / "cifarflow.yaml").write_text(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_CONFIG", str(folder))
        dask.config.refresh(paths=[str(folder)])
        yield folder
    dask.config.refresh()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, dask_config: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scheduler") / "here"
    command = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    options = ("--dashboard-address", "127.0.0.1:0")
    with dask_process(folder, *command, *options, ready=r"Scheduler at:\s+(tls://\S+)") as found:
        yield found


def start_worker(folder: Path, address: str, **environment: str) -> AbstractContextManager[str]:
    command = ("worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
    return dask_process(folder, *command, ready=r"Registered to:\s+(\w+://\S+)", **environment)


def shadow_project(folder: Path, text: str) -> dict[str, str]:
    """A copy of the code that comes first on a worker's path, with another tasks/train.py."""
    for name in ("flows", "tasks", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tasks" / "train.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.usefixtures("prefect_server")
def test_sweep_on_workers_elsewhere_fetches_the_splits_and_survives_a_killed_worker(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    splits = save_brightness_splits(Path("splits"), 200, 60, 50)
    Path("pretrained").mkdir()
    save_file(build_network("net", 10, 32).state_dict(), "pretrained/start.safetensors")
    cache = tmp_path / "worker-cache"

    def sweep(folder: str, where: str | None) -> list[float]:
        config = build_config(epochs=10, batch_size=20, weights="start.safetensors")
        params = build_params(config, splits=str(splits), weights=f"{folder}/weights", sweep=f"{folder}.json")
        result = run_sweep(params, 2, 1, where)
        return [row["test_accuracy"] for row in result["seeds"]]

    with start_worker(tmp_path / "worker", address, CIFARFLOW_CACHE=str(cache)):
        killed = subprocess.Popen([sys.executable, "-c", KILL_IN_TRAINING.format(cache=str(cache))])
        elsewhere = sweep("elsewhere", address)
        assert killed.wait(60) == 0
    assert list(cache.glob("*/splits"))
    assert list(cache.glob("*/start.safetensors"))
    (log,) = cache.glob("elsewhere/sweep/*/seed-0/log.txt")
    assert "resuming from checkpoint after epoch" in log.read_text()
    assert elsewhere == sweep("here", None)


KILL_IN_TRAINING = """
import time, psutil
from pathlib import Path
deadline = time.monotonic() + 200  # the worker may compile first
while not list(Path({cache!r}).glob("elsewhere/sweep/*/seed-0/checkpoints/*/epoch-000002.pt")):
    assert time.monotonic() < deadline
    time.sleep(0.01)
for process in psutil.process_iter(["cmdline", "environ"]):
    environment = process.info["environ"] or {{}}
    if environment.get("CIFARFLOW_CACHE") == {cache!r} and "spawn_main" in " ".join(process.info["cmdline"]):
        process.kill()
"""


def test_workers_with_other_code_or_none_are_one_line(address: str, tmp_path: Path) -> None:
    other = shadow_project(tmp_path / "other", "# other code\n")
    with start_worker(tmp_path / "a", address, **other), pytest.raises(RunError, match="has other code than"):
        check_workers(address, CONFIG)
    (tmp_path / "none" / "flows").mkdir(parents=True)
    (tmp_path / "none" / "flows" / "__init__.py").write_text("raise ImportError('no project here')\n")
    with (
        start_worker(tmp_path / "b", address, PYTHONPATH=str(tmp_path / "none")),
        pytest.raises(RunError, match="cannot import cifarflow"),
    ):
        check_workers(address, CONFIG)
    with pytest.raises(RunError, match="has no workers; start some: dask worker"):
        check_workers(address, CONFIG)


def test_workers_that_would_train_differently_are_one_line(address: str, tmp_path: Path) -> None:
    with (
        start_worker(tmp_path / "a", address),
        start_worker(tmp_path / "b", address, CXX="/nonexistent", CIFARFLOW_CACHE=str(tmp_path / "cache")),
    ):
        with pytest.raises(RunError, match=r"on cpu with operators in C\+\+, but .* on cpu without"):
            check_workers(address, build_config(fused="auto"))
        assert check_workers(address, build_config(fused=False)) == Machine("cpu", fused=False)


def test_cluster_as_the_docs_set_it_up_takes_nobody_without_the_key(address: str, tmp_path: Path) -> None:
    host_and_port = address.removeprefix("tls://")
    with start_worker(tmp_path / "worker", address), Client(address) as client:
        ((worker_address, worker),) = client.scheduler_info()["workers"].items()
        for own in (address, worker_address, worker["nanny"]):
            assert own.startswith("tls://")
        for services in (client.scheduler_info()["services"], worker["services"]):
            for page in ("", "health", "info/main/workers.html", "json/identity.json"):
                with pytest.raises(HTTPError, match="404"):
                    urlopen(f"http://127.0.0.1:{services['dashboard']}/{page}", timeout=10)
        for target in (worker_address, address):
            with pytest.raises(OSError, match=r"Timed out|SSL|TLS"):
                Client(target, security=Security.temporary(), timeout="1s")
        with dask.config.set({"distributed.comm.require-encryption": False}):
            for target in (f"tcp://{host_and_port}", worker_address.replace("tls", "tcp")):
                with pytest.raises(OSError, match=r"Timed out|TCP"):
                    Client(target, security=Security(), timeout="1s")


@pytest.mark.usefixtures("dask_config")
def test_address_that_does_not_suit_the_certificates_is_one_line() -> None:
    with pytest.raises(InputError, match=r"does not suit tcp://.*docs/scale.md: encryption required"):
        check_workers("tcp://127.0.0.1:9", CONFIG)
    with (
        dask.config.set({"distributed.comm.tls.client.cert": None}),
        pytest.raises(InputError, match=r"does not suit tls://.*docs/scale.md: TLS expects"),
    ):
        check_workers("tls://127.0.0.1:9", CONFIG)


@pytest.mark.usefixtures("dask_config")
def test_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.trainings.cluster.CONNECT_TIMEOUT", "1s")
    with pytest.raises(InputError, match=r"no Dask scheduler at tls://127\.0\.0\.1:9"):
        check_workers("tls://127.0.0.1:9", CONFIG)
