"""What prune removes and what it keeps, in real DVC repositories with files of a made-up age."""

import datetime as dt
import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from flows.cli.main import run_command
from flows.prune.prune import claim, prune
from flows.run.lock import WorkspaceLockedError, workspace_lock
from tasks.registry import ledger, questions
from tasks.registry.ledger import LedgerEntry
from tasks.workspace.errors import InputError, RunError
from tests.flows.conftest import git
from tests.shipped_params import PARAMS_FILE

if TYPE_CHECKING:
    from tests.s3 import S3

DAY_S = 24 * 3600
NOW = time.time()
DVC_YAML = """\
stages:
  export:
    cmd: "true"
    deps: [data]
    outs: [artifacts/model.onnx]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in Git with a DVC remote that is a folder, and without models; it is the current folder."""
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "home-cache"))
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.copy(PARAMS_FILE, ".")
    Path("dvc.yaml").write_text(DVC_YAML)
    Path(".gitignore").write_text("/artifacts/\n/data/\n/.cifarflow*\n/.dvc/cache\n/.dvc/tmp\n")
    set_remote(f"{tmp_path}/store")
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "T")
    git("config", "user.email", "t@example.org")
    git("init", "--quiet", "--bare", f"{tmp_path}/origin.git")
    git("remote", "add", "origin", f"{tmp_path}/origin.git")
    commit()
    return folder


def set_remote(url: str) -> None:
    Path(".dvc/config").write_text(f"[core]\nremote = store\n['remote \"store\"']\nurl = {url}\n")


def commit() -> None:
    git("add", "--all")
    git("commit", "--quiet", "--allow-empty", "--message=x")


def put(content: str, folder: str = ".dvc/cache", age_days: int = 100) -> str:
    """Put a file of that age into the cache; its hash. A list of hashes in JSON becomes a folder's list."""
    md5 = hashlib.md5(content.encode()).hexdigest() + (".dir" if content.startswith("[") else "")
    file = Path(folder, "files/md5", md5[:2], md5[2:])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    set_age(file, age_days)
    return md5


def set_age(path: Path, age_days: int) -> None:
    os.utime(path, (NOW - age_days * DAY_S,) * 2)


def has(md5: str, folder: str = ".dvc/cache") -> bool:
    return Path(folder, "files/md5", md5[:2], md5[2:]).is_file()


def put_data(name: str) -> tuple[str, str]:
    """Put a folder with one image; the hashes of its list and of the image."""
    image = put(f"image {name}")
    return put(json.dumps([{"md5": image, "relpath": "image"}])), image


def lock_model(model: str, data: str) -> None:
    """Write the dvc.lock of a run that has made the model from the data."""
    Path("dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  export:\n    cmd: 'true'\n"
        f"    deps:\n    - path: data\n      hash: md5\n      md5: {data}\n      size: 1\n      nfiles: 1\n"
        f"    outs:\n    - path: artifacts/model.onnx\n      hash: md5\n      md5: {model}\n      size: 5\n"
    )


def make_entry(decision: ledger.DecisionKind, model: str, int8: str = "") -> LedgerEntry:
    return LedgerEntry(decision, "because", model, 5, "otter", "id", {}, {}, int8_md5=int8, int8_bytes=5)


def run_prune(
    *, num_models: int = 0, remote: bool = False, apply: bool = True, days: int = 30
) -> dict[str, int]:
    pruned, _ = prune(now=NOW, days=days, num_models=num_models, remote=remote, apply=apply)
    return {each.place: each.num_files for each in pruned}


def test_only_what_nothing_needs_goes(project: Path) -> None:
    names = ("champion", "int8", "asked", "last", "rejected", "on a branch", "tagged", "now")
    models = {name: put(f"model {name}") for name in names}
    data = {name: put_data(name) for name in models}
    gone, young = put("gone"), put("young", age_days=29)
    # Each was the workspace's once, as the commit of an experiment.
    for name in ("champion", "asked", "last", "rejected"):
        lock_model(models[name], data[name][0])
        commit()
        git("update-ref", f"refs/exps/aa/bb/{name}", "HEAD")
        git("reset", "--quiet", "--hard", "HEAD^")
    for name, command in (("on a branch", "branch"), ("tagged", "tag")):
        lock_model(models[name], data[name][0])
        commit()
        git(command, "kept")
        git("reset", "--quiet", "--hard", "HEAD^")
    lock_model(models["now"], data["now"][0])
    ledger.append(make_entry("promoted", models["champion"], models["int8"]))
    ledger.append(make_entry("rejected", models["rejected"]))
    ledger.append(questions.ask(make_entry("promoted", models["asked"]), None, dt.datetime.now(dt.UTC)))
    ledger.append(make_entry("rejected", models["last"]))

    # The rejected model and its data, the data that were put for the int8 model, and the file `gone`:
    assert run_prune(num_models=1, apply=False)["the DVC cache"] == 3 + 2 + 1
    assert has(gone)
    claim(remote=False)
    run_prune(num_models=1)
    assert [name for name in names if not has(models[name])] == ["rejected"]
    kept_data = [name for name in names if all(map(has, data[name]))]
    assert kept_data == ["champion", "asked", "last", "on a branch", "tagged", "now"]
    assert (has(gone), has(young)) == (False, True)
    assert run_prune(num_models=1)["the DVC cache"] == 0, "a second time there is nothing left"


def test_folders_stay_where_the_data_of_a_decision_are_unknown(project: Path) -> None:
    model, (folder, image), gone = put("model"), put_data("a"), put("gone")
    ledger.append(make_entry("promoted", model))
    claim(remote=False)
    run_prune()
    assert [has(md5) for md5 in (model, folder, image, gone)] == [True, True, True, False]


def test_data_that_the_ledger_records_stay_for_a_reproduction(project: Path) -> None:
    model, (folder, image), (other, _) = put("model"), put_data("a"), put_data("b")
    recorded = {"data_dvc": f"outs:\n- md5: {folder}\n  hash: md5\n  path: data\n"}
    ledger.append(replace(make_entry("promoted", model), reproduction=recorded))
    claim(remote=False)
    run_prune()
    assert [has(md5) for md5 in (model, folder, image, other)] == [True, True, True, False]


def test_run_cache_goes_by_its_age_and_keeps_what_it_names(project: Path) -> None:
    kept, gone = put("kept"), put("gone")
    entries = {}
    for md5, age in ((kept, 29), (gone, 31)):
        entry = Path(".dvc/cache/runs/ab", "ab" + md5, "entry")
        entry.parent.mkdir(parents=True)
        entry.write_text(f"outs:\n- path: x\n  md5: {md5}\n")
        set_age(entry, age)
        entries[md5] = entry
    claim(remote=False)
    run_prune()
    assert (has(kept), has(gone)) == (True, False)
    assert (entries[kept].is_file(), entries[gone].is_file()) == (True, False)


def test_what_runs_leave_has_an_end(project: Path, tmp_path: Path) -> None:
    for age in (29, 31):
        for place in ("wandb/run", "artifacts/checkpoints/a", str(tmp_path / "home-cache/operators/x")):
            file = Path(f"{place}-{age}") / "file"
            file.parent.mkdir(parents=True)
            file.write_text("x")
            set_age(file, age)
            set_age(file.parent, age)
    claim(remote=False)
    assert run_prune() == {
        "the DVC cache": 0,
        "wandb": 1,
        "artifacts/checkpoints": 1,
        str(tmp_path / "home-cache/operators"): 1,
    }
    assert [path.name for path in Path("wandb").iterdir()] == ["run-29"]


def test_prune_beside_a_run_is_refused(project: Path) -> None:
    with workspace_lock(), pytest.raises(WorkspaceLockedError):
        run_prune()


def test_cache_that_may_be_anothers_is_not_pruned(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = put("gone")
    assert run_command(["prune"]) == 0
    assert "the DVC cache: 1 of 1 files would go, 0.0 of 0.0 MB\n" in capsys.readouterr().out
    assert run_command(["prune", "--apply"]) == 2
    assert capsys.readouterr().err == (
        "cifarflow: the DVC cache is not marked as this project's alone, so another one may need its files; "
        "if no other project, and no other repository, uses it: cifarflow prune --claim\n"
    )
    Path(".dvc/cache/.cifarflow-project").write_text("/elsewhere\n")
    for attempt in (lambda: claim(remote=False), run_prune):
        with pytest.raises(InputError, match="the DVC cache is marked as that of /elsewhere; "):
            attempt()
    assert has(gone)
    Path(".dvc/cache/.cifarflow-project").unlink()
    assert run_command(["prune", "--claim"]) == 0
    assert run_command(["prune", "--apply"]) == 0
    assert not has(gone)
    assert run_command(["prune", "--days", "29"]) == 2, "what a run pushes now may be committed later"


@pytest.mark.parametrize("kind", ["folder", pytest.param("s3", marks=pytest.mark.distributed)])
def test_remote_keeps_what_branches_that_only_git_s_remote_has_name(
    project: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    from flows.versions.dvc_repro import open_repo

    elsewhere, (data, image), gone = put("elsewhere"), put_data("a"), put("gone")
    if kind == "s3":
        s3: S3 = request.getfixturevalue("s3")
        bucket = s3.make_bucket(f"bucket-{uuid4()}")
        set_remote(f"{bucket}/store")
        commit()
    lock_model(elsewhere, data)
    ledger.append(make_entry("promoted", elsewhere))
    commit()
    git("push", "--quiet", "origin", "HEAD:another-machine")
    git("reset", "--quiet", "--hard", "HEAD^")
    git("remote", "set-branches", "origin", "main")  # as in a clone of one branch
    with open_repo() as repo:
        from dvc_data.hashfile.hash_info import HashInfo

        repo.cloud.push([HashInfo("md5", md5) for md5 in (elsewhere, data, image, gone)])

    def exists(md5: str) -> bool:
        if kind == "s3":
            return f"store/files/md5/{md5[:2]}/{md5[2:]}" in s3.list_objects(bucket.removeprefix("s3://"))
        return has(md5, f"{tmp_path}/store")

    with pytest.raises(InputError, match="the DVC cache is not marked"):
        run_prune(remote=True)
    claim(remote=True)
    assert run_prune(remote=True)["the DVC remote"] == 0, "all of it was pushed today"
    _, kept = prune(now=NOW + 31 * DAY_S, days=30, num_models=0, remote=True, apply=True)
    assert kept == 1
    assert [exists(md5) for md5 in (elsewhere, data, image, gone)] == [True, True, True, False]
    assert not has(gone)
    assert git("for-each-ref", "refs/cifarflow") == ""


def test_remote_is_not_pruned_where_git_s_cannot_be_reached(project: Path, tmp_path: Path) -> None:
    gone = put("gone", f"{tmp_path}/store")
    claim(remote=True)
    git("remote", "set-url", "origin", f"{tmp_path}/nowhere.git")
    with pytest.raises(RunError, match="git fetch failed"):
        run_prune(remote=True)
    git("remote", "remove", "origin")
    with pytest.raises(InputError, match="there is no Git remote"):
        run_prune(remote=True)
    assert has(gone, f"{tmp_path}/store")


@pytest.mark.parametrize("damage", ["ledger", "branch", "folder"])
def test_nothing_goes_where_something_needed_cannot_be_read(project: Path, damage: str) -> None:
    model, (data, _), gone = put("model"), put_data("a"), put("gone")
    lock_model(model, data)
    commit()
    if damage == "ledger":
        Path("registry").mkdir()
        ledger.LEDGER.write_text("x\n{}\n")
    elif damage == "branch":
        git("checkout", "--quiet", "-b", "broken")
        Path("dvc.lock").write_text("schema: [\n")
        commit()
        git("checkout", "--quiet", "main")
    else:
        ledger.append(make_entry("promoted", model))
        file = Path(".dvc/cache/files/md5", data[:2], data[2:])
        file.write_text("[{")
        set_age(file, 100)
    claim(remote=False)
    with pytest.raises(RunError):
        run_prune()
    assert has(gone)


def test_a_year_of_weekly_runs_stays_bounded(project: Path) -> None:
    """Each week a model, its int8 file, splits and weights, and one more image in the data."""
    images: list[str] = []
    claim(remote=False)
    for week in range(52):
        age = 7 * (51 - week)
        images.append(put(f"image {week}", age_days=age))
        folder = put(json.dumps([{"md5": md5, "relpath": md5} for md5 in images]), age_days=age)
        model, int8 = put(f"model {week} " + "x" * 1000, age_days=age), put(f"int8 {week}", age_days=age)
        for name in ("splits", "weights"):
            put(f"{name} {week} " + "x" * 10_000, age_days=age)
        lock_model(model, folder)
        commit()
        git("update-ref", f"refs/exps/aa/bb/{week}", "HEAD")
        if week < 51:
            git("reset", "--quiet", "--hard", "HEAD^")
        ledger.append(replace(make_entry("promoted" if week % 13 == 0 else "rejected", model), int8_md5=int8))
    before = sum(file.stat().st_size for file in Path(".dvc/cache").rglob("*") if file.is_file())
    run_prune(num_models=10)
    after = [file for file in Path(".dvc/cache").rglob("*") if file.is_file()]
    sizes = [file.stat().st_size for file in after]
    assert sum(sizes) < before / 4
    assert all(has(entry.model_md5) for entry in ledger.read_ledger() if entry.is_promotion)
    assert all(map(has, images)), "the newest data have them all"
