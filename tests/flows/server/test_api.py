"""What keeps a command from its Prefect server is one line that names the setting."""

import base64
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.context import SettingsContext, get_settings_context
from prefect.settings import Settings

from flows.server.api import describe_startup_failure
from flows.server.connection import connect_to_server
from tasks.workspace.errors import RunError

CIFARFLOW = Path(sys.executable).parent / "cifarflow"


class FakeApi(http.server.BaseHTTPRequestHandler):
    """Responds to `/KIND/…` as a server of that kind."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        token = base64.b64encode(b"admin:right").decode()
        status, body = {
            "old": (200, '"2.20.1"'),
            "page": (200, "<html>"),
            "broken": (500, ""),
            "locked": (200 if self.headers.get("Authorization") == f"Basic {token}" else 401, '"2.0.0"'),
        }.get(kind, (404, ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeApi) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def run_toy(home: Path, *assignments: str) -> "subprocess.CompletedProcess[str]":
    """`cifarflow toys neuron` with these environment variables."""
    variables = dict(assignment.split("=", 1) for assignment in assignments)
    return subprocess.run(
        [CIFARFLOW, "toys", "neuron"],
        env=os.environ | {"PREFECT_HOME": str(home)} | variables,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("assignments", "code", "message"),
    [
        ("PREFECT_API_URL=notaurl", 2, "PREFECT_API_URL is not a URL: 'notaurl'"),
        ("PREFECT_API_URL=http://ADDRESS/nothing", 1, "is not a Prefect API (404; PREFECT_API_URL)"),
        ("PREFECT_API_URL=http://ADDRESS/page", 1, "is not a Prefect API (PREFECT_API_URL)"),
        ("PREFECT_API_URL=http://ADDRESS/broken", 1, "has an error of its own (500)"),
        ("PREFECT_API_URL=http://ADDRESS/old", 1, "has version 2.20.1, this project Prefect 3."),
        ("PREFECT_API_URL=http://ADDRESS/locked", 1, "rejects the password; set PREFECT_API_AUTH_STRING"),
        ("PREFECT_API_URL=http://ADDRESS/locked PREFECT_API_AUTH_STRING=admin:right", 1, "has version 2.0.0"),
        (
            "PREFECT_API_URL=http://a.example/api HTTP_PROXY=http://127.0.0.1:9",
            1,
            "does not respond through the proxy of HTTP_PROXY",
        ),
        (
            "PREFECT_API_URL=http://a.example/api ALL_PROXY=socks5://127.0.0.1:9",
            2,
            "ALL_PROXY names a SOCKS proxy",
        ),
        ("SSL_CERT_FILE=/nowhere.pem", 2, "SSL_CERT_FILE names a file that does not exist: /nowhere.pem"),
        (
            "PREFECT_API_URL=https://127.0.0.1:9/api PREFECT_API_SSL_CERT_FILE=/nowhere.pem",
            2,
            "PREFECT_API_SSL_CERT_FILE names a file that does not exist",
        ),
        ("CIFARFLOW_SERVER=remote", 2, "CIFARFLOW_SERVER should be local or temporary, not 'remote'"),
        ("CIFARFLOW_SERVER_IDLE_MINUTES=soon", 2, "should be a number of minutes, not 'soon'"),
        ("PREFECT_HOME=/proc/nowhere", 1, "cannot write to Prefect's home, /proc/nowhere"),
    ],
)
def test_connection_without_a_usable_server_says_why_in_one_line(
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    assignments: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for assignment in assignments.replace("ADDRESS", address).split():
        monkeypatch.setenv(*assignment.split("=", 1))
    with pytest.raises(RunError) as caught, new_settings(), connect_to_server():
        pass
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.exit_code == code


def new_settings() -> SettingsContext:
    """Prefect's settings as a new process reads them."""
    return SettingsContext(profile=get_settings_context().profile, settings=Settings())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignment", "code", "message"),
    [
        ("PREFECT_API_URL=http://[::1/api", 2, "PREFECT_API_URL is not a URL: 'http://[::1/api'"),
        (
            "PREFECT_API_URL=http://127.0.0.1:9/api",
            1,
            "no Prefect server responds at 127.0.0.1:9 (PREFECT_API_URL)",
        ),
        ("PREFECT_CLIENT_MAX_RETRIES=many", 2, "setting PREFECT_CLIENT_MAX_RETRIES is invalid"),
    ],
)
def test_command_without_a_usable_server_prints_one_line(
    tmp_path: Path, assignment: str, code: int, message: str
) -> None:
    done = run_toy(tmp_path, assignment)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == code


@pytest.mark.slow
def test_command_with_a_profile_of_a_dead_server_names_the_profile(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n')
    done = run_toy(tmp_path)
    assert f"(PREFECT_API_URL in the profile team of {profiles})" in done.stderr
    profiles.write_text("not TOML [")
    done = run_toy(tmp_path)
    assert done.stderr.startswith("cifarflow: Prefect's settings cannot be read: ")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
def test_command_with_a_corrupt_database_names_the_log(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("no database")
    done = run_toy(tmp_path)
    assert "the local Prefect server did not start: its database is corrupt" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("Can't locate revision identified by 'f00'\n", "a newer Prefect wrote its database"),
        (
            "sqlite3.OperationalError: attempt to write a readonly database\n",
            "its database cannot be written",
        ),
        ("Traceback\nValueError: something else\n", "ValueError: something else"),
        ("", "no output"),
    ],
)
def test_describe_startup_failure_gives_the_reason(tmp_path: Path, log: str, reason: str) -> None:
    (tmp_path / "log").write_text(log)
    assert describe_startup_failure(tmp_path / "log").startswith(
        f"the local Prefect server did not start: {reason}"
    )
