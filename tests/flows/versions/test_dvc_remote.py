"""Two machines that share only a DVC remote: what one ran is up to date or restored on the other."""

import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from dvc.exceptions import DvcException
from s3fs import S3FileSystem

from flows.versions.dvc_data import pull_data, require_data
from flows.versions.dvc_remote import push_objects, push_stages, require_remote
from flows.versions.dvc_repro import change_reason, changed_stages, open_repo, repro_stage, topological_stages
from tasks.workspace.errors import InputError, RunError
from tests.s3 import KEYS, S3

DVC_YAML = """\
stages:
  split:
    cmd: python -m tasks split
    deps: [data]
    outs: [split.txt]
  train:
    cmd: python -m tasks train
    deps: [split.txt]
    params: [lr]
    outs: [model.txt]
    metrics:
      - metrics.txt:
          cache: false
"""


def run_stages(ran: list[str], *, pull: bool = True) -> dict[str, str]:
    """Bring the stages up to date, push what ran; the state of each."""

    def split() -> dict[str, Any]:
        ran.append("split")
        Path("split.txt").write_text(Path("data/images").read_text() + "split")
        return {}

    def train() -> dict[str, Any]:
        ran.append("train")
        Path("model.txt").write_text(Path("split.txt").read_text() + Path("params.yaml").read_text())
        Path("metrics.txt").write_text("1.0")
        return {}

    states: dict[str, str] = {}
    for name, function in (("split", split), ("train", train)):
        with open_repo() as repo:
            states[name] = repro_stage(repo, name, function, pull=pull).state
    with open_repo() as repo:
        push_stages(repo, topological_stages(repo))
    return states


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty DVC remote."""
    if getattr(request, "param", "folder") == "folder":
        return f"{tmp_path}/store"
    s3: S3 = request.getfixturevalue("s3")
    return f"{s3.make_bucket(f'bucket-{uuid4()}')}/store"


FOLDER_AND_S3 = pytest.mark.parametrize(
    "store", ["folder", pytest.param("s3", marks=pytest.mark.distributed)], indirect=True
)


@pytest.fixture
def first(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose data are pushed and whose stages have not run, which is the current folder."""
    folder = tmp_path / "first"
    (folder / ".dvc").mkdir(parents=True)
    config = f"[core]\nno_scm = true\nremote = store\n['remote \"store\"']\nurl = {store}\n"
    (folder / ".dvc/config").write_text(config)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("lr: 1\n")
    (folder / "data").mkdir()
    (folder / "data/images").write_text("images ")
    monkeypatch.chdir(folder)
    with open_repo() as repo:
        repo.add("data")
    with open_repo() as repo:
        repo.push()
    return folder


def clone(first: Path, name: str) -> Path:
    """What is in Git of it, in a folder of its own."""
    folder = first.with_name(name)
    folder.mkdir()
    for file in ("dvc.yaml", "dvc.lock", "data.dvc", "params.yaml", "metrics.txt", ".dvc/config"):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(first / file, folder / file)
    return folder


def test_what_only_the_remote_has_is_up_to_date(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    assert run_stages(ran) == {"split": "ran", "train": "ran"}
    monkeypatch.chdir(clone(first, "second"))
    with open_repo() as repo:
        assert changed_stages(repo, pull=True) == []
        assert not require_data(repo)
    assert run_stages(ran) == {"split": "cached", "train": "cached"}
    assert not [name for name in ("data", "split.txt", "model.txt") if Path(name).exists()]
    assert ran == ["split", "train"]


@FOLDER_AND_S3
def test_changed_stage_pulls_what_it_reads_and_is_restored_elsewhere(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    run_stages(ran)
    original = clone(first, "original")
    monkeypatch.chdir(clone(first, "second"))
    Path("params.yaml").write_text("lr: 2\n")
    with open_repo() as repo:
        reasons = {stage.name: change_reason(stage, pull=True) for stage in topological_stages(repo)}
    assert reasons["split"] is None
    assert "lr changed" in str(reasons["train"])
    assert run_stages(ran) == {"split": "cached", "train": "ran"}
    assert (Path("split.txt").is_file(), Path("data").exists()) == (True, False)

    monkeypatch.chdir(original)
    Path("params.yaml").write_text("lr: 2\n")
    Path("metrics.txt").unlink()
    assert run_stages(ran) == {"split": "cached", "train": "restored"}
    assert Path("model.txt").read_text() == "images splitlr: 2\n"
    assert Path("metrics.txt").read_text() == "1.0"
    assert ran == ["split", "train", "train"]


def test_changed_data_are_required_and_pulled(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run_stages(ran)
    lock = Path("dvc.lock").read_bytes()
    Path("data/images").write_text("more images ")
    with open_repo() as repo:
        repo.add("data")
        repo.push()
    monkeypatch.chdir(clone(first, "second"))
    Path("dvc.lock").write_bytes(lock)
    with open_repo() as repo:
        assert change_reason(topological_stages(repo)[0], pull=True) == "data changed"
        assert require_data(repo)
        assert pull_data(repo)
    assert run_stages(ran) == {"split": "ran", "train": "ran"}
    assert Path("model.txt").read_text() == "more images splitlr: 1\n"


def test_output_that_the_remote_has_lost_is_made_again(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run_stages(ran)
    with open_repo() as repo:
        (output,) = repo.find_outs_by_path("model.txt")
        md5 = str(output.hash_info.value)
    (first.parent / "store/files/md5" / md5[:2] / md5[2:]).unlink()
    monkeypatch.chdir(clone(first, "second"))
    with open_repo() as repo:
        reason = change_reason(topological_stages(repo)[1], pull=True)
    assert reason == "model.txt is neither in the DVC cache nor in the remote"
    assert run_stages(ran) == {"split": "cached", "train": "ran"}


def test_push_that_the_remote_does_not_take_fails_in_one_line(first: Path) -> None:
    shutil.rmtree(first.parent / "store")
    (first.parent / "store").write_text("a file where a folder should be")
    with open_repo() as repo:
        used = [stage.get_used_objs() for stage in repo.index.stages]
        objects = {info for each in used for infos in each.values() for info in infos}
    assert objects
    with pytest.raises(RunError, match=r"^[^\n]*$"), open_repo() as repo:
        push_objects(repo, objects)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("bucket", "The specified bucket does not exist"),
        ("keys", "Unable to locate credentials"),
        ("endpoint", "Could not connect to the endpoint URL"),
    ],
)
@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_s3_that_cannot_be_used_fails_in_one_line(
    first: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    if fault == "bucket":
        config = Path(".dvc/config")
        config.write_text(config.read_text().replace("s3://bucket", "s3://missing"))
    elif fault == "keys":
        for name in KEYS:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()  # which is connected
    with pytest.raises(RunError, match=rf"^the DVC remote cannot be used: {reason}[^\n]*$") as caught:
        run_stages([])
    assert not [key for key in KEYS.values() if key in str(caught.value)]


def test_errors_of_dvc_show_no_credentials(first: Path) -> None:
    with pytest.raises(RunError, match=r"https://\*\*\*@host/store") as caught, open_repo():
        raise DvcException("no answer from https://user:planted@host/store")
    assert "planted" not in str(caught.value)


def test_workspace_without_a_remote_is_rejected(first: Path) -> None:
    Path(".dvc/config").write_text("[core]\nno_scm = true\n")
    with pytest.raises(InputError, match="dvc remote add -d"), open_repo() as repo:
        require_remote(repo)
