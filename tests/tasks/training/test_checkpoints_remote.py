"""A training whose machine is lost goes on from the checkpoints at a URL, and ends in the same bytes."""

import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.training.checkpoints import CheckpointStore, RemoteCheckpoints
from tasks.validation import validate
from tasks.workspace.errors import InputError
from tests.brightness import build_config, save_brightness_splits
from tests.s3 import S3


def run_train(folder: Path, splits: Path, until: int | None = None, **changes: object) -> bytes:
    """Train in a folder of its own; the content of weights and history."""
    folder.mkdir(exist_ok=True)
    weights, history = folder / "model.safetensors", folder / "history.csv"
    config = build_config(epochs=4, **changes)
    train(splits, weights, history, config, progress=lambda *_: None, until=until)
    return b"".join(file.read_bytes() for file in (weights, history) if file.exists())


def list_files(url: str) -> list[str]:
    file_system, root = fsspec.url_to_fs(url)
    file_system.invalidate_cache()
    return [str(file) for file in file_system.find(root)]


def wait_for(url: str, name: str) -> None:
    deadline = time.monotonic() + 30
    while not any(file.endswith(f"/{name}") for file in list_files(url)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.distributed)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a folder that does not exist yet, or in an empty bucket."""
    if request.param == "folder":
        return (tmp_path / "remote").as_uri()
    s3: S3 = request.getfixturevalue("s3")
    return f"{s3.make_bucket(f'bucket-{uuid4()}')}/checkpoints"


def test_train_goes_on_on_another_machine_in_the_same_bytes(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = save_brightness_splits(tmp_path / "splits", train=120, val=40)
    uninterrupted = run_train(tmp_path / "local", splits)
    kept: dict[str, Any] = {"checkpoint_url": url, "checkpoint_interval_s": 0.0}
    run_train(tmp_path / "lost", splits, until=1, **kept)
    wait_for(url, "epoch-000001.pt")
    shutil.rmtree(tmp_path / "lost")
    assert run_train(tmp_path / "second", splits, **kept) == uninterrupted
    assert "resuming from checkpoint after epoch 1" in capsys.readouterr().out
    assert not list_files(url)


@pytest.mark.distributed
def test_bucket_that_is_missing_costs_a_line_and_is_not_created(
    s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = save_brightness_splits(tmp_path / "splits", train=120, val=40)
    url = f"s3://bucket-{uuid4()}/checkpoints"
    assert run_train(tmp_path / "local", splits, checkpoint_url=url, checkpoint_interval_s=0.0)
    assert "could not be written to train.checkpoint_url: FileNotFoundError" in capsys.readouterr().out
    assert url.split("/")[2] not in s3.list_buckets()


def test_damaged_copy_is_skipped_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "remote"
    for epoch in (1, 2, 3):
        store = CheckpointStore(tmp_path / "one", "training", RemoteCheckpoints(str(remote), "training", 0))
        store.save(epoch, {"epochs": epoch})
        wait_for(str(remote), f"epoch-00000{epoch}.pt")
    damaged = remote / "training/epoch-000003.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    other = CheckpointStore(tmp_path / "two", "training", RemoteCheckpoints(str(remote), "training", 0))
    assert other.load_latest() == {"epochs": 2}
    assert "skipping corrupt checkpoint" in capsys.readouterr().out
    foreign = CheckpointStore(tmp_path / "three", "foreign", RemoteCheckpoints(str(remote), "foreign", 0))
    assert foreign.load_latest() is None


def test_uploads_keep_their_distance(tmp_path: Path) -> None:
    remote = RemoteCheckpoints(str(tmp_path), "training", 3600)
    remote.upload("epoch-000001.pt", b"first")
    wait_for(str(tmp_path), "epoch-000001.pt")
    remote.upload("epoch-000002.pt", b"second")
    remote.clear()
    assert not [*tmp_path.rglob("*.pt")]


def test_unreachable_url_costs_a_line_and_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    splits = save_brightness_splits(tmp_path / "splits", train=120, val=40)
    url = f"{tmp_path}/file/planted-secret"
    assert run_train(tmp_path / "local", splits, checkpoint_url=url, checkpoint_interval_s=0.0)
    out = capsys.readouterr().out
    assert "could not be written to train.checkpoint_url: " in out
    assert "planted-secret" not in out


def test_url_of_an_unknown_kind_is_rejected() -> None:
    with pytest.raises(InputError, match=r"train\.checkpoint_url: .*nowhere"):
        RemoteCheckpoints("nowhere://bucket", "training", 0)


def test_url_with_a_password_is_rejected_and_not_shown() -> None:
    values = build_config().model_dump() | {"checkpoint_url": "ssh://user:planted@host/checkpoints"}
    with pytest.raises(InputError, match=r"checkpoint_url: .* may have no password") as caught:
        validate(TrainConfig, values, "params.yaml")
    assert "planted" not in str(caught.value)


def test_url_is_in_no_record_of_the_parameters() -> None:
    config = build_config(checkpoint_url="s3://bucket/planted")
    assert "planted" not in config.model_dump_json()


def test_store_that_never_answers_holds_up_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.training.checkpoints.TIMEOUT_S", 0.1)
    remote = RemoteCheckpoints("memory://silent", "training", 0.0)
    answer = threading.Event()
    monkeypatch.setattr(
        remote, "_fs", SimpleNamespace(invalidate_cache=answer.wait, exists=lambda _: answer.wait())
    )
    remote.download(tmp_path)
    remote.clear()
    answer.set()
    assert capsys.readouterr().out.splitlines() == [
        "no checkpoint could be read from train.checkpoint_url: no answer within 0 s",
        "the checkpoints at train.checkpoint_url could not be deleted: no answer within 0 s",
    ]
