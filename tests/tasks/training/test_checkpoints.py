from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.training.checkpoints import KEEP_RUNS, CheckpointStore, training_fingerprint

CPU = torch.device("cpu")


def test_load_latest_gives_the_newest_state_and_keeps_two(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, "fingerprint")
    assert checkpoints.load_latest() is None
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, {"weights": torch.full((2,), epoch), "epochs": epoch})
    state = CheckpointStore(tmp_path, "fingerprint").load_latest()
    assert state["epochs"] == 3
    assert torch.equal(state["weights"], torch.tensor([3, 3]))
    assert len(list(tmp_path.rglob("*.pt"))) == 2


@pytest.mark.parametrize(
    "corrupt",
    [
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        lambda content: content[:-9] + b"!" + content[-8:],
    ],
    ids=["truncated", "empty", "one byte changed"],
)
def test_load_latest_skips_a_corrupt_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], corrupt: Callable[[bytes], bytes]
) -> None:
    checkpoints = CheckpointStore(tmp_path, "fingerprint")
    checkpoints.save(1, {"epochs": 1})
    checkpoints.save(2, {"epochs": 2})
    newest = tmp_path / "fingerprint" / "epoch-000002.pt"
    newest.write_bytes(corrupt(newest.read_bytes()))
    assert checkpoints.load_latest() == {"epochs": 1}
    assert capsys.readouterr().out == f"skipping corrupt checkpoint {newest}\n"
    assert newest.with_suffix(".corrupt").is_file()


def test_checkpoint_store_deletes_the_oldest_other_trainings(tmp_path: Path) -> None:
    for name in "abcde":
        CheckpointStore(tmp_path, name).save(1, {})
    assert len(list(tmp_path.iterdir())) == KEEP_RUNS
    CheckpointStore(tmp_path, "e").clear()
    assert (tmp_path / "d").is_dir()
    assert not (tmp_path / "e").exists()


def test_training_fingerprint_depends_on_data_parameters_and_device(tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    splits.write_bytes(b"data")
    fingerprint = training_fingerprint(splits, {"lr": 0.1}, CPU)
    assert training_fingerprint(splits, {"lr": 0.1}, CPU) == fingerprint
    assert training_fingerprint(splits, {"lr": 0.2}, CPU) != fingerprint
    assert training_fingerprint(splits, {"lr": 0.1}, torch.device("cuda")) != fingerprint
    splits.write_bytes(b"Data")
    assert training_fingerprint(splits, {"lr": 0.1}, CPU) != fingerprint


def test_load_latest_loads_the_state_of_a_gpu_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of several processes would load it to the first GPU."""
    checkpoints = CheckpointStore(tmp_path, "fingerprint")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    checkpoints.save(1, {"weights": torch.ones(2)})
    state = checkpoints.load_latest()
    assert state["weights"].device == CPU
    assert torch.equal(state["weights"], torch.ones(2))
