"""Who may use the local server: the user who started it, from this machine, and nobody else."""

import base64
import contextlib
import http.client
import http.server
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from flows.server.process import find_refusal

pytestmark = [pytest.mark.server, pytest.mark.slow]

CIFARFLOW = Path(sys.executable).parent / "cifarflow"
FILTER = "/api/deployments/filter"
PATHS = [
    "/",
    "/v2/dashboard",
    "/ui-settings",
    "/docs",
    "/openapi.json",
    "/api/health",
    "/api/metrics",
    FILTER,
]
SOCKETS = ["/api/events/in", "/api/events/out", "/api/logs/out", "/api/task_runs/subscriptions/scheduled"]


@dataclass(frozen=True)
class Running:
    env: dict[str, str]
    port: int
    credential: str

    @property
    def state(self) -> Path:
        (state,) = Path(self.env["PREFECT_HOME"], "cifarflow").glob("*.json")
        return state

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}

    def authorization(self) -> str:
        return f"Basic {base64.b64encode(self.credential.encode()).decode()}"


def run_cifarflow(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CIFARFLOW, *arguments],
        env=env,
        cwd=env["PREFECT_HOME"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def make_env(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    env = os.environ | {"PREFECT_HOME": str(home), "CIFARFLOW_SERVER": "local"}
    env.pop("PREFECT_API_URL", None)
    return env


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A local server that a command has started, and left for the next one."""
    home = tmp_path_factory.mktemp("home")
    env = make_env(home)
    done = run_cifarflow(env, "toys", "neuron")
    assert done.returncode == 0, done.stderr
    shown = run_cifarflow(env, "server", "env").stdout.splitlines()
    names, values = zip(*(line.removeprefix("export ").split("=", 1) for line in shown), strict=True)
    assert names == ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    url, credential = (shlex.split(value)[0] for value in values)
    running = Running(env, int(url.split(":")[2].removesuffix("/api")), credential)
    assert credential not in done.stdout + done.stderr
    yield running
    assert run_cifarflow(env, "server", "stop").returncode == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "page.example"}, 421),
        ({"Host": "page.example:{port}"}, 421),
        ({"Host": "127.0.0.1.page.example"}, 421),
        ({"Host": "localhost.page.example:{port}"}, 421),
        ({"Host": "page@127.0.0.1"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://page.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),  # not the host that was asked
        ({"Origin": "http://127.0.0.1:{port}.page.example"}, 403),
    ],
)
def test_foreign_hosts_and_origins_get_nothing_even_with_the_password(
    server: Running, headers: dict[str, str], status: int
) -> None:
    filled = {name: value.format(port=server.port) for name, value in headers.items()}
    for path, (method, body) in product(PATHS, (("GET", None), ("POST", b"{}"), ("OPTIONS", None))):
        found, sent = server.ask(method, path, body, Authorization=server.authorization(), **filled)
        assert found == status
        assert "access-control-allow-origin" not in sent


def test_find_refusal_lets_pass_what_this_machine_asks_on_any_port() -> None:
    for host in (b"127.0.0.1", b"127.0.0.1:4200", b"LOCALHOST:8080", b"[::1]:4200", b"[::1]"):
        assert find_refusal([(b"host", host)]) is None
        assert find_refusal([(b"host", host), (b"origin", b"http://" + host)]) is None
    assert find_refusal([]) == 421
    assert find_refusal([(b"host", b"localhost"), (b"host", b"page.example")]) == 421
    both = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://page.example")]
    assert find_refusal(both) == 403


def test_requests_without_password_or_token_get_nothing(server: Running) -> None:
    for path in ("/api/admin/version", "/api/metrics", "/api/csrf-token?client=a", "/api/docs"):
        assert server.ask("GET", path)[0] == 401
    wrong = f"Basic {base64.b64encode(b'cifarflow:wrong').decode()}"
    # A browser asks nobody before it sends a request without a content type.
    for headers in ({}, {"Content_Type": "application/json"}):
        assert server.ask("POST", FILTER, b"{}", **headers)[0] == 403
        for authorization in (wrong, server.authorization()):  # without a token for CSRF
            assert server.ask("POST", FILTER, b"{}", Authorization=authorization, **headers)[0] == 403
    status, sent = server.ask("GET", "/")
    assert (status, sent["content-security-policy"]) == (200, "frame-ancestors 'none'")


@pytest.mark.parametrize("path", SOCKETS)
def test_websockets_serve_neither_foreign_pages_nor_those_without_password(
    server: Running, path: str
) -> None:
    url = f"ws://127.0.0.1:{server.port}{path}"
    prefect = [Subprotocol("prefect")]
    for foreign in ("http://page.example", "null", "http://127.0.0.1:1"):
        with pytest.raises(InvalidStatus, match="403"):
            connect(url, origin=Origin(foreign), subprotocols=prefect, proxy=None)
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            f"ws://page.example:{server.port}{path}",
            sock=socket.create_connection(("127.0.0.1", server.port), timeout=20),
            proxy=None,
        )
    for subprotocols, message in ((None, {}), (prefect, {"type": "auth", "token": "wrong"})):
        with pytest.raises((InvalidStatus, ConnectionClosed)):
            talk(url, subprotocols, message)


def talk(url: str, subprotocols: list[Subprotocol] | None, message: dict[str, str]) -> None:
    """Send a first message, and read until the server ends the connection."""
    with connect(url, subprotocols=subprotocols, proxy=None) as websocket:
        websocket.send(json.dumps(message))
        while True:
            assert "auth_success" not in str(websocket.recv(timeout=20))


def test_another_user_gets_neither_password_nor_answer(server: Running, other_uid: int) -> None:
    script = f"""
import http.client, os, pathlib
connection = http.client.HTTPConnection("127.0.0.1", {server.port}, timeout=20)
connection.request("POST", "{FILTER}", b"{{}}", {{"Content-Type": "application/json"}})
print(connection.getresponse().status)
seen = b"".join(p.read_bytes() for p in pathlib.Path("/proc").glob("[0-9]*/cmdline") if p.exists())
print({server.credential[:9]!r}.encode() + b":" in seen)
try:
    print(pathlib.Path("{server.state}").read_text())
except PermissionError:
    print("closed")
"""
    python = shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    done = subprocess.run(
        [python, "-c", script],
        user=other_uid,
        group=other_uid,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={},
    )
    assert done.stdout.split() == ["403", "False", "closed"]
    folder = server.state.parent
    assert (folder.stat().st_mode & 0o077, server.state.stat().st_mode & 0o777) == (0, 0o600)
    assert (folder.parent / "prefect.db").stat().st_mode & 0o077 == 0


class Page(http.server.SimpleHTTPRequestHandler):
    """A page elsewhere, which asks the server in every way that needs no permission."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title>")

    def log_message(self, *arguments: object) -> None:
        pass


ASK = """async (address) => {
    const found = [];
    for (const options of [{}, {method: "POST", body: new Blob(["{}"])}, {mode: "no-cors"},
                           {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}]) {
        try {
            const answer = await fetch(address + "/api/deployments/filter", options);
            found.push(answer.type === "opaque" ? "opaque" : answer.status);
        } catch (error) { found.push("blocked"); }
    }
    const socket = new WebSocket(address.replace("http", "ws") + "/api/events/out", "prefect");
    found.push(await new Promise(resolve => {
        socket.onopen = () => resolve("open"); socket.onerror = () => resolve("blocked"); }));
    return found;
}"""


def test_pages_of_other_origins_get_nothing_in_a_browser(server: Running, browser: Browser) -> None:
    page_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=page_server.serve_forever, daemon=True).start()
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    launched = browser.browser_type.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", rules]
    )
    try:
        page = launched.new_page()
        for origin in (
            f"http://127.0.0.1:{page_server.server_port}",
            f"http://evil.example:{page_server.server_port}",
        ):
            page.goto(origin)
            found = page.evaluate(ASK, f"http://127.0.0.1:{server.port}")
            assert found == ["blocked", "blocked", "opaque", "blocked", "blocked"]
        # A name that resolves to this machine makes the page one of the server's own origin.
        refused = page.goto(f"http://evil.example:{server.port}/v2/dashboard")
        assert refused is not None
        assert refused.status == 421
        assert page.evaluate(ASK, f"http://evil.example:{server.port}") == [421, 421, 421, 421, "blocked"]
    finally:
        launched.close()
        page_server.shutdown()
        page_server.server_close()


def test_dashboard_asks_for_the_password_once_at_any_forwarded_address(
    server: Running, browser: Browser
) -> None:
    forwarded = forward(server.port)
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://localhost:{forwarded}/")
    page.locator("input[type=password]").fill(server.credential)
    page.keyboard.press("Enter")
    page.get_by_text("Flow Runs").first.wait_for()
    page.goto(f"http://localhost:{forwarded}/v2/flows")
    page.get_by_text("neuron").first.wait_for()
    page.goto(f"http://localhost:{forwarded}/runs")  # the older dashboard
    page.get_by_text("neuron").first.wait_for()
    context.close()


def forward(port: int) -> int:
    """Another port that leads to the same server, as `ssh -L` makes one."""
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        target.close()

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            upstream = socket.create_connection(("127.0.0.1", port))
            for pair in ((client, upstream), (upstream, client)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])
