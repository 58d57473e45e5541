"""The champion in W&B, with the real client: a server with two versions of the model, and those that fail."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import wandb

from tasks.params import TrackingConfig
from tasks.registry import wandb_champion
from tasks.registry.wandb_champion import alias_champion

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef" * 2 + "01234567"  # of a key's form, and nobody's
MD5 = {"v0": "a" * 32, "v1": "b" * 32}
COLLECTION = "wandb-registry-model/cifar-10"
PROJECT_ID = "UHJvamVjdEludGVybmFsSWQ6MQ=="  # ProjectInternalId:1


def describe_project(entity: str, name: str) -> dict[str, Any]:
    return {"id": "p", "internalId": PROJECT_ID, "name": name, "entity": {"name": entity}}


def describe_version(version: str) -> dict[str, Any]:
    """An artifact as the server describes it."""
    sequence = {"__typename": "ArtifactSequence", "id": "s", "name": "image-classifier"}
    return {
        "__typename": "Artifact",
        "id": f"id of {version}",
        "artifactType": {"name": "model"},
        "artifactSequence": sequence | {"project": describe_project("me", "cifarflow")},
        "versionIndex": int(version[1:]),
        "metadata": json.dumps({"opset": 13, "md5": MD5[version]}),
        "aliases": [],
        "tags": [],
        "state": "COMMITTED",
        "digest": version,
        "commitHash": version,
        "createdAt": "2026-01-01T00:00:00",
        "updatedAt": None,
        "description": None,
        "fileCount": 1,
        "size": 1,
        "historyStep": None,
        "ttlDurationSeconds": -1,
        "ttlIsInherited": True,
    }


def answer(operation: str, variables: dict[str, Any]) -> dict[str, Any]:
    """What W&B's server answers to an operation, as far as its client reads it."""
    values = variables.get("input", {})
    version = values.get("artifactID", "").removeprefix("id of ") or "v0"
    collection = {"__typename": "ArtifactPortfolio", "id": "c", "name": "cifar-10"}
    membership = {
        "__typename": "ArtifactCollectionMembership",
        "id": "m",
        "versionIndex": 0,
        "aliases": [],
        "createdAt": "2026-01-01T00:00:00",
        "artifactCollection": collection | {"project": describe_project("org", "wandb-registry-model")},
        "artifact": describe_version(version),
    }
    feature = {"name": "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE", "isEnabled": True}
    versions = {
        "totalCount": len(MD5),
        "pageInfo": {"endCursor": None, "hasNextPage": False},
        "edges": [{"version": name, "node": describe_version(name)} for name in MD5],
    }
    artifacts = {"__typename": "ArtifactSequence", "artifacts": versions}
    answers: dict[str, dict[str, Any]] = {
        "Viewer": {
            "viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
        },
        "GetDefaultEntity": {"viewer": {"id": "u", "entity": "me"}},
        "ServerFeaturesQuery": {"serverInfo": {"features": [feature]}},
        "ProjectArtifacts": {"project": {"artifactType": {"artifactCollection": artifacts}}},
        "AddAliases": {"addAliases": {"success": True}},
        "UpdateArtifact": {"result": {"artifact": describe_version(version)}},
        "FetchOrgInfoFromEntity": {
            "entity": {"organization": {"name": "Org", "orgEntity": {"name": "org"}}, "user": None}
        },
        "LinkArtifact": {"result": {"versionIndex": 0, "artifactMembership": membership}},
    }
    return answers[operation]


class WandbServer(ThreadingHTTPServer):
    """Answers W&B's client, and keeps what would change something."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.changes: list[tuple[str, dict[str, Any]]] = []
        self.refused = ""
        """an operation that the server does not permit"""


class Handler(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        match = re.match(r"\s*(query|mutation)\s+(\w+)", request["query"])
        assert match, request
        variables = request.get("variables") or {}
        if match[2] == self.server.refused:
            self._send(403, {"errors": [{"message": "permission denied"}]})
            return
        if match[1] == "mutation":
            self.server.changes.append((match[2], variables["input"]))
        self._send(200, {"data": answer(match[2], variables)})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def stop_wandb_service() -> Iterator[None]:
    yield
    wandb.teardown()


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_client_to(monkeypatch, server.server_address[1])
        yield server
        server.shutdown()


def point_client_to(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()  # it reads the environment once


def config(mode: str = "online", registry: str = "") -> TrackingConfig:
    return TrackingConfig.model_validate({"mode": mode, "project": "cifarflow", "registry": registry})


def test_champion_gets_the_alias_and_is_linked(
    wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    alias_champion(MD5["v1"], config(registry=COLLECTION))
    assert (
        capsys.readouterr().out
        == f"W&B: image-classifier:v1 has the alias champion, linked to {COLLECTION}\n"
    )
    changes = dict(wandb_server.changes)
    assert changes.keys() == {"AddAliases", "UpdateArtifact", "LinkArtifact"}
    assert {change["artifactID"] for change in changes.values()} == {"id of v1"}
    (alias,) = changes["AddAliases"]["aliases"]
    assert (alias["alias"], alias["artifactCollectionName"]) == ("champion", "image-classifier")
    assert json.loads(changes["UpdateArtifact"]["metadata"])["md5"] == MD5["v1"]
    link = changes["LinkArtifact"]
    target = (link["entityName"], link["projectName"], link["artifactPortfolioName"])
    assert target == ("org", "wandb-registry-model", "cifar-10")
    assert [entry["alias"] for entry in link["aliases"]] == ["champion"]


def test_without_a_collection_nothing_is_linked(wandb_server: WandbServer) -> None:
    alias_champion(MD5["v0"], config())
    assert {change for change, _ in wandb_server.changes} == {"AddAliases", "UpdateArtifact"}


def test_model_that_was_not_tracked_online_changes_nothing(
    wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    alias_champion("c" * 32, config(registry=COLLECTION))
    assert wandb_server.changes == []
    assert "it was not tracked online" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_without_online_tracking_w_and_b_is_not_asked(
    mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_champion, "_find_version", pytest.fail)
    alias_champion(MD5["v0"], config(mode, COLLECTION))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("operation", ["Viewer", "AddAliases", "LinkArtifact"])
def test_refusal_is_one_line(
    operation: str, wandb_server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    wandb_server.refused = operation
    alias_champion(MD5["v1"], config(registry=COLLECTION))
    out, err = capfd.readouterr()
    assert re.fullmatch(r"W&B failed \(\w+\): the champion .*; the decision stands\n", out), out
    assert err == ""


@pytest.mark.parametrize("answers", [False, True], ids=["refuses", "never answers"])
def test_unreachable_server_is_one_line_soon(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, answers: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        point_client_to(monkeypatch, server.getsockname()[1])
        monkeypatch.setattr(wandb_champion, "TIMEOUT_S", 2.0)
        began = time.perf_counter()
        alias_champion(MD5["v1"], config())
        assert time.perf_counter() - began < 30
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert "the decision stands" in out
