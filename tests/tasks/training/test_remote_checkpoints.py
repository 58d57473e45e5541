"""A training whose machine is lost goes on from the checkpoints at a URL, and ends in the same bytes."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.train import train
from tasks.training.checkpoints import CheckpointStore
from tasks.training.remote_checkpoints import RemoteCheckpoints
from tasks.workspace.errors import InputError
from tests.brightness import build_config, save_brightness_splits


def run_train(folder: Path, splits: Path, until: int | None = None, **changes: object) -> bytes:
    """Train in a folder of its own; the content of weights and history."""
    folder.mkdir(exist_ok=True)
    weights, history = folder / "model.safetensors", folder / "history.csv"
    config = build_config(epochs=4, **changes)
    train(splits, weights, history, config, progress=lambda *_: None, until=until)
    return b"".join(file.read_bytes() for file in (weights, history) if file.exists())


def wait_for(remote: Path, pattern: str) -> Path:
    deadline = time.monotonic() + 30
    while not (found := [*remote.rglob(pattern)]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[0]


def test_train_goes_on_on_another_machine_in_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits, remote = save_brightness_splits(tmp_path / "splits", train=120, val=40), tmp_path / "remote"
    uninterrupted = run_train(tmp_path / "local", splits)
    kept: dict[str, Any] = {"checkpoint_url": remote.as_uri(), "checkpoint_interval_s": 0.0}
    run_train(tmp_path / "lost", splits, until=1, **kept)
    wait_for(remote, "epoch-000001.pt")
    shutil.rmtree(tmp_path / "lost")
    assert run_train(tmp_path / "second", splits, **kept) == uninterrupted
    assert "resuming from checkpoint after epoch 1" in capsys.readouterr().out
    assert not [*remote.rglob("*.pt")]


def test_damaged_copy_is_skipped_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = tmp_path / "remote"
    for epoch in (1, 2, 3):
        store = CheckpointStore(tmp_path / "one", "training", RemoteCheckpoints(str(remote), "training", 0))
        store.save(epoch, {"epochs": epoch})
        wait_for(remote, f"epoch-00000{epoch}.pt")
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
    wait_for(tmp_path, "epoch-000001.pt")
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


def test_url_is_in_no_record_of_the_parameters() -> None:
    config = build_config(checkpoint_url="s3://bucket/planted")
    assert "planted" not in config.model_dump_json()
