"""Watching: one event per change, none for what a retraining has done itself."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.watch import watch
from tests.flows import git_clones
from tests.flows.conftest import git
from tests.shipped_params import PARAMS_FILE

pytestmark = pytest.mark.usefixtures("prefect_server")


class Watched:
    """A workspace in Git, a look at it, and the events of that look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._events: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr("flows.watch.emit_event", self._receive)

    def _receive(self, event: str, resource: dict[str, str], payload: dict[str, Any]) -> None:
        assert event.startswith(resource["prefect.resource.id"])
        self._events.append((event.removeprefix("cifarflow."), payload))

    def look(self, **options: Any) -> list[str]:
        """The names of the events of a look, which has to complete."""
        return [event for event, _ in self.look_with_payloads(**options)]

    def look_with_payloads(self, **options: Any) -> list[tuple[str, dict[str, Any]]]:
        self._events.clear()
        state = watch(**options, return_state=True)
        assert state.is_completed(), state.message
        assert (state.name == "Skipped") == (not self._events), state.message
        return [*self._events]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A workspace, which is the current folder, at which nobody has looked."""
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__NAME", f"watch-{tmp_path.name.replace('_', '-')}")
    shutil.copy(PARAMS_FILE, ".")
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "T")
    git("config", "user.email", "t@example.org")
    record_data("1")
    commit("params.yaml", "data.dvc")
    return Watched(monkeypatch)


def record_data(digit: str) -> None:
    Path("data.dvc").write_text(f"outs:\n- md5: {digit * 32}.dir\n  hash: md5\n  path: data\n")


def train_on_data(digit: str) -> None:
    Path("dvc.lock").write_text(f"stages:\n  split:\n    deps:\n    - md5: {digit * 32}.dir\n")


def commit(*files: str) -> None:
    git("add", "--force", *files)
    git("commit", "--quiet", "--message=x")


def put_images(*names: str) -> None:
    folder = Path("incoming/cat")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_waiting_images_are_an_event_per_min_images(watched: Watched) -> None:
    put_images("1")
    assert watched.look(min_images=2) == []
    put_images("2", "3")
    assert watched.look_with_payloads(min_images=2) == [("images.waiting", {"count": 3})]
    assert watched.look(min_images=2) == []
    put_images("4")
    assert watched.look(min_images=2) == []
    put_images("5")  # the run that the first event started may have failed
    assert watched.look(min_images=2) == ["images.waiting"]
    shutil.rmtree("incoming")
    assert watched.look(min_images=2) == []
    put_images("6", "7")
    assert watched.look(min_images=2) == ["images.waiting"]


def test_changed_data_are_an_event_unless_a_retraining_has_changed_them(watched: Watched) -> None:
    assert watched.look() == []
    record_data("2")
    md5s = {"md5": "2" * 32 + ".dir", "before": "1" * 32 + ".dir"}
    assert watched.look_with_payloads() == [("data.changed", md5s)]
    assert watched.look() == []
    record_data("3")
    train_on_data("3")
    assert watched.look() == []


def test_moved_branch_is_an_event_unless_only_results_or_data_moved_it(watched: Watched) -> None:
    assert watched.look() == []
    Path("train.py").write_text("")
    commit("train.py")
    assert watched.look_with_payloads() == [("branch.moved", {"head": git("rev-parse", "HEAD")})]
    assert watched.look() == []
    train_on_data("1")
    for folder in ("reports", "registry"):
        Path(folder).mkdir()
        Path(folder, "file").write_text("")
    commit("dvc.lock", "reports", "registry")
    assert watched.look() == []
    record_data("2")
    commit("data.dvc")
    assert watched.look() == ["data.changed"]


def test_branch_at_the_remote_is_looked_at_from_clones_of_one_commit(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("clone", "--quiet", "--bare", ".", "../origin.git")
    git("remote", "add", "origin", f"file://{tmp_path}/origin.git")

    def look_from_clone(name: str) -> list[str]:
        git("push", "--quiet", "origin", "main")
        clone = git_clones.Remotes(tmp_path).clone(tmp_path / name)
        return watched.look(branch="main", workspace=clone)

    assert look_from_clone("1") == []
    record_data("2")
    Path("train.py").write_text("")
    commit("data.dvc", "train.py")
    assert look_from_clone("2") == ["data.changed", "branch.moved"]
    record_data("3")
    train_on_data("3")
    commit("data.dvc", "dvc.lock")
    assert look_from_clone("3") == []


def test_watch_without_git_or_data_completes(watched: Watched) -> None:
    shutil.rmtree(".git")
    Path("data.dvc").unlink()
    put_images("1")
    assert watched.look() == ["images.waiting"]


def test_watch_of_a_branch_without_a_remote_fails_in_one_line(watched: Watched) -> None:
    state = watch(branch="main", return_state=True)
    assert state.is_failed()
    assert "needs a clone with the Git remote origin" in str(state.message)
