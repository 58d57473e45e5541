from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.training.checkpoints import KEEP_RUNS, CheckpointStore, training_fingerprint

CPU = torch.device("cpu")


def test_gives_back_the_newest_state(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, "key")
    assert checkpoints.load_latest() is None
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"weights": torch.full((2,), epoch), "epochs": epoch})
    state = CheckpointStore(tmp_path, "key").load_latest()
    assert state["epochs"] == 3
    assert torch.equal(state["weights"], torch.tensor([3, 3]))
    assert len(list(tmp_path.rglob("*.pt"))) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        lambda content: content[:-9] + b"!" + content[-8:],
    ],
)
def test_damaged_checkpoint_is_left_aside_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    checkpoints = CheckpointStore(tmp_path, "key")
    checkpoints.save(1, {"epochs": 1})
    checkpoints.save(2, {"epochs": 2})
    newest = tmp_path / "key" / "epoch-000002.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.load_latest() == {"epochs": 1}
    assert "epoch-000002.pt is damaged and left aside" in capsys.readouterr().out
    assert newest.with_suffix(".damaged").is_file()


def test_abandoned_ones_are_bounded_in_number(tmp_path: Path) -> None:
    for name in "abcde":
        CheckpointStore(tmp_path, name).save(1, {})
    assert len(list(tmp_path.iterdir())) == KEEP_RUNS
    CheckpointStore(tmp_path, "e").clear()
    assert (tmp_path / "d").is_dir()
    assert not (tmp_path / "e").exists()


def test_another_training_has_another_key(tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    splits.write_bytes(b"data")
    key = training_fingerprint(splits, {"lr": 0.1}, CPU)
    assert training_fingerprint(splits, {"lr": 0.1}, CPU) == key
    assert training_fingerprint(splits, {"lr": 0.2}, CPU) != key
    assert training_fingerprint(splits, {"lr": 0.1}, torch.device("cuda")) != key
    splits.write_bytes(b"Data")
    assert training_fingerprint(splits, {"lr": 0.1}, CPU) != key
