"""The cluster of a sweep or search: who else on the machine can use what it opens."""

import importlib.util
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client, Security, SpecCluster
from prefect.settings import get_current_settings

from flows.trainings.local_cluster import LOOPBACK, start_local_cluster
from tests.flows.test_search import OPTIONS, make_workspace

pytestmark = pytest.mark.slow
REQUESTS = ("/", "/health", "/info", "/json/index.html", "/metrics", "/sitemap.json", "/status")


def find_listeners(process: psutil.Process) -> dict[int, str]:
    """Addresses by port, of the process and those that it started."""
    found: dict[int, str] = {}
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a compiler that has ended
            for connection in each.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.port] = connection.laddr.ip
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for temporary files, in which another user has prepared the one that Dask would take."""
    folder = tmp_path_factory.mktemp("temporary")
    planted = folder / "dask-scratch-space"
    planted.mkdir()
    planted.chmod(0o777)
    (planted / "planted_module.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[SpecCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        with start_local_cluster(2, {}) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def ports(folder: Path, cluster: SpecCluster) -> dict[str, int]:
    """Of the scheduler, and of the workers and the nannies that start them again."""
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        workers = client.scheduler_info()["workers"]
    addresses = [cluster.scheduler_address, *workers, *(worker["nanny"] for worker in workers.values())]
    return {address: int(address.rpartition(":")[2]) for address in addresses}


def test_client_without_the_certificate_gets_nowhere(ports: dict[str, int]) -> None:
    for port in ports.values():
        for scheme, security in (("tcp", None), ("tls", Security.temporary())):
            with pytest.raises(OSError, match=r"Timed out|TCP|TLS|SSL"):
                Client(f"{scheme}://{LOOPBACK}:{port}", security=security, timeout="1s")


@pytest.mark.parametrize("path", REQUESTS)
def test_no_web_server_answers(ports: dict[str, int], path: str) -> None:
    for port in ports.values():
        for is_encrypted in (False, True):
            assert b"HTTP" not in get(port, path, is_encrypted=is_encrypted)


def get(port: int, path: str, *, is_encrypted: bool) -> bytes:
    """What comes back, or why nothing does."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((LOOPBACK, port), timeout=10) as plain,
            context.wrap_socket(plain) if is_encrypted else plain as connection,
        ):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return connection.recv(1000)
    except OSError as error:
        return str(error).encode()


def test_modules_that_another_user_planted_are_not_found(folder: Path, cluster: SpecCluster) -> None:
    assert (folder / "dask-scratch-space" / "planted_module.py").is_file()
    assert importlib.util.find_spec("planted_module") is None
    with Client(cluster) as client:
        found = client.run(lambda: __import__("importlib.util").util.find_spec("planted_module"))
    assert list(found.values()) == [None, None]


def test_folder_is_closed_to_other_users_and_no_file_holds_the_key(
    folder: Path, ports: dict[str, int], other_uid: int
) -> None:
    (own,) = folder.glob("cifarflow-dask-*")
    assert own.stat().st_mode & 0o777 == 0o700
    listing = subprocess.run(["ls", own], check=False, user=other_uid, capture_output=True, text=True)
    assert listing.returncode
    assert not listing.stdout
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if b"PRIVATE KEY" in file.read_bytes()]


ATTACK = """
import os, sys
from distributed import Client, Security
uid, *ports = sys.argv[1:]
Client(processes=False, dashboard_address=None).close()  # imports what a client needs
os.setgid(int(uid))
os.setuid(int(uid))
for port in ports:
    for scheme, security in (("tcp", None), ("tls", Security.temporary())):
        try:
            with Client(f"{scheme}://127.0.0.1:{port}", security=security, timeout="1s") as client:
                print("entered", client.run_on_scheduler(os.getuid))
        except Exception as error:
            print(type(error).__name__)
"""


@contextmanager
def running_search(folder: Path, *options: str) -> Iterator[psutil.Process]:
    """The command, while its first trainings run."""
    command = [str(Path(sys.executable).with_name("cifarflow")), "-C", str(make_workspace(folder)), "search"]
    api_url = {"PREFECT_API_URL": str(get_current_settings().api.url), "TMPDIR": str(folder)}
    with (folder / "output").open("wb") as output:
        process = psutil.Popen([*command, *options], env=os.environ | api_url, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 200
        while len(list(folder.glob("artifacts/search/*/trial-*/log.txt"))) < 2:
            assert process.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        if process.is_running():
            process.kill()
        process.wait()


@pytest.mark.distributed
@pytest.mark.usefixtures("prefect_server")
def test_search_opens_nothing_that_another_user_can_use_and_leaves_no_key(
    tmp_path: Path, other_uid: int
) -> None:
    options = ("--over", "train.lr=0.001..0.002", "--jobs", "2", *OPTIONS[2:], "--set", "train.epochs=100000")
    with running_search(tmp_path, *options) as process:
        listeners = find_listeners(process)
        assert set(listeners.values()) == {LOOPBACK}
        assert len(listeners) == 5, "scheduler, two workers and their nannies"
        for port in listeners:
            assert b"HTTP" not in get(port, "/", is_encrypted=False)
        attack = subprocess.run(
            [sys.executable, "-c", ATTACK, str(other_uid), *map(str, listeners)],
            env=os.environ | {"TMPDIR": "/tmp"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(attack.stdout.split()) == 2 * len(listeners), attack.stderr
        closed = {"OSError", "TimeoutError", "CommClosedError", "FatalCommClosedError"}
        assert set(attack.stdout.split()) <= closed
        tree = [process, *process.children(recursive=True)]
        assert not [text for each in tree for text in each.cmdline() if "PRIVATE KEY" in text]
        process.kill()
        _, alive = psutil.wait_procs(tree, timeout=60)
        assert not alive
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in files if b"PRIVATE KEY" in file.read_bytes()]
