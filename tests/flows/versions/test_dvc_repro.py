"""Stages run inside this process, with DVC's own cache and lock around them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from flows.versions.dvc_repro import StageResult, changed_stages, open_repo, repro_stage, topological_stages
from tasks.workspace.errors import InputError, RunError
from tests.conftest import ROOT

DVC_YAML = """
stages:
  total:
    cmd: python -m tasks total
    deps: [scaled.txt]
    metrics:
      - total.json:
          cache: false
  scale:
    cmd: python -m tasks scale
    deps: [numbers.txt]
    params: [scale]
    outs: [scaled.txt]
  other:
    cmd: cp total.json copy.json
    deps: [total.json]
    outs: [copy.json]
"""


class Workspace:
    """Two stages that a flow can call, one with another command; records the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.calls: list[str] = []
        (folder / "dvc.yaml").write_text(DVC_YAML)
        (folder / "numbers.txt").write_text("1 2 3")
        self.set_factor(2)
        Repo.init(str(folder), no_scm=True).close()

    def set_factor(self, factor: int) -> None:
        (self.folder / "params.yaml").write_text(f"scale: {{by: {{factor: {factor}}}, unused: 0}}\n")

    def scale(self) -> dict[str, Any]:
        self.calls.append("scale")
        factor = int((self.folder / "params.yaml").read_text().split("factor: ")[1].split("}")[0])
        numbers = [factor * int(n) for n in (self.folder / "numbers.txt").read_text().split()]
        (self.folder / "scaled.txt").write_text(" ".join(map(str, numbers)))
        return {"count": len(numbers)}

    def total(self) -> dict[str, Any]:
        self.calls.append("total")
        total = sum(int(n) for n in (self.folder / "scaled.txt").read_text().split())
        (self.folder / "total.json").write_text(json.dumps({"total": total}))
        return {}

    def reproduce(self, name: str, stage_fn: Callable[[], Any] | None = None, **options: Any) -> StageResult:
        with open_repo() as repo:
            return repro_stage(repo, name, stage_fn or getattr(self, name), **options)

    def reproduce_both(self) -> list[str]:
        return [self.reproduce(name).state for name in ("scale", "total")]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def test_topological_stages_order_is_that_of_the_graph(workspace: Workspace) -> None:
    with open_repo() as repo:
        assert [stage.name for stage in topological_stages(repo)] == ["scale", "total", "other"]


def test_open_repo_within_another_gives_the_same_repository(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Workspace(workspace.folder / "other")
    with open_repo() as repo:
        assert workspace.reproduce_both() == ["ran", "ran"]
        assert workspace.reproduce_both() == ["cached", "cached"]
        workspace.set_factor(3)
        assert workspace.reproduce("scale").reason == "params scale.by.factor changed"
        assert workspace.reproduce("total").reason == "scaled.txt changed"
        with open_repo() as same:
            assert same is repo
        monkeypatch.chdir(other.folder)
        with open_repo() as another:
            assert another is not repo
    monkeypatch.chdir(workspace.folder)
    with Repo() as repo:
        assert repo.status(["scale", "total"]) == {}


def test_repro_stage_leaves_dvc_nothing_to_do(workspace: Workspace) -> None:
    assert workspace.reproduce("scale") == StageResult("ran", "never run before", {"count": 3})
    workspace.reproduce("total")
    with Repo() as repo:
        assert repo.status(["scale", "total"]) == {}
        assert repo.reproduce(["scale", "total"]) == []


def test_repro_stage_second_time_is_cached(workspace: Workspace) -> None:
    assert workspace.reproduce_both() == ["ran", "ran"]
    assert workspace.reproduce_both() == ["cached", "cached"]
    assert workspace.calls == ["scale", "total"]


def test_repro_stage_after_dvc_repro_is_cached(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "python -c \"open('scaled.txt', 'w').write('2 4 6')\""
    file = workspace.folder / "dvc.yaml"
    file.write_text(file.read_text().replace("python -m tasks scale", command))
    with Repo() as repo:
        repo.reproduce(["scale"])
    assert workspace.reproduce("scale").state == "cached"
    assert workspace.calls == []


def test_repro_stage_reason_names_changed_parameter(workspace: Workspace) -> None:
    workspace.reproduce_both()
    workspace.set_factor(3)
    assert workspace.reproduce("scale").reason == "params scale.by.factor changed"
    assert workspace.reproduce("total").reason == "scaled.txt changed"
    assert json.loads((workspace.folder / "total.json").read_text()) == {"total": 18}


def test_repro_stage_earlier_result_is_restored_from_run_cache(workspace: Workspace) -> None:
    workspace.reproduce_both()
    workspace.set_factor(3)
    workspace.reproduce_both()
    workspace.calls.clear()
    workspace.set_factor(2)
    assert workspace.reproduce_both() == ["restored", "restored"]
    assert workspace.calls == []
    assert (workspace.folder / "scaled.txt").read_text() == "2 4 6"
    assert json.loads((workspace.folder / "total.json").read_text()) == {"total": 12}


def test_repro_stage_missing_output_is_restored(workspace: Workspace) -> None:
    workspace.reproduce_both()
    (workspace.folder / "scaled.txt").unlink()
    result = workspace.reproduce("scale")
    assert (result.state, result.reason) == ("restored", "scaled.txt is missing")


def test_repro_stage_force_runs_up_to_date_stage(workspace: Workspace) -> None:
    workspace.reproduce_both()
    assert workspace.reproduce("scale", force=True).state == "ran"


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_repro_stage_does_not_write_through_links_into_cache(workspace: Workspace, link: str) -> None:
    (workspace.folder / ".dvc" / "config").write_text(
        f"[cache]\n    type = {link}\n[core]\n    no_scm = True\n"
    )
    workspace.reproduce_both()
    linked = workspace.folder / "scaled.txt"
    assert linked.is_symlink() == (link == "symlink")
    assert link == "symlink" or linked.stat().st_nlink == 2
    workspace.set_factor(5)
    workspace.reproduce_both()
    with Repo() as repo:
        cached = [Path(path) for path in map(repo.cache.local.oid_to_path, repo.cache.local.all())]
        contents = {file.read_text() for file in cached if file.is_file() and not file.name.endswith(".dir")}
    assert {"2 4 6", "5 10 15"} <= contents


def test_repro_stage_failure_propagates_and_records_nothing(workspace: Workspace) -> None:
    workspace.reproduce("scale")
    before = (workspace.folder / "dvc.lock").read_text()

    def fail() -> None:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match=r"^the disk is full$"):
        workspace.reproduce("total", fail)
    assert (workspace.folder / "dvc.lock").read_text() == before
    assert workspace.reproduce_both() == ["cached", "ran"]


def test_repro_stage_other_command_runs_as_it_is(workspace: Workspace) -> None:
    workspace.reproduce_both()
    assert workspace.reproduce("other", workspace.total).state == "ran"
    assert (workspace.folder / "copy.json").read_text() == (workspace.folder / "total.json").read_text()
    assert workspace.calls == ["scale", "total"]


def test_open_repo_locked_by_dvc_fails(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvc.lock.DEFAULT_TIMEOUT", 0)
    with (
        Repo() as repo,
        repo.lock,
        pytest.raises(RunError, match="another DVC command is running"),
    ):
        workspace.reproduce_both()


def test_open_repo_without_pipeline_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"has no dvc\.yaml"), open_repo():
        pass


def test_open_repo_without_git_runs_stages_and_is_clean_afterwards(workspace: Workspace) -> None:
    """A ZIP download: the project's own .dvc/config, and no .git in any directory above."""
    Path(".dvc/config").write_text((ROOT / ".dvc" / "config").read_text(), encoding="utf-8")
    assert not [folder for folder in Path.cwd().parents if (folder / ".git").exists()]
    assert workspace.reproduce_both() == ["ran", "ran"]
    assert workspace.reproduce_both() == ["cached", "cached"]
    with open_repo() as repo:
        assert changed_stages(repo) == ["other"]
