import hashlib
import io
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.train import train
from tasks.training.checkpoints import DIGEST_BYTES, KEEP_RUNS, CheckpointStore, training_fingerprint
from tasks.training.compile import Machine
from tests.brightness import build_config, save_brightness_splits

CPU = torch.device("cpu")
MACHINE = Machine("cpu", fused=False)


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
    fingerprint = training_fingerprint(splits, {"lr": 0.1}, MACHINE)
    assert training_fingerprint(splits, {"lr": 0.1}, MACHINE) == fingerprint
    assert training_fingerprint(splits, {"lr": 0.2}, MACHINE) != fingerprint
    assert training_fingerprint(splits, {"lr": 0.1}, Machine("cuda", fused=False)) != fingerprint
    splits.write_bytes(b"Data")
    assert training_fingerprint(splits, {"lr": 0.1}, MACHINE) != fingerprint


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


def seal(content: bytes) -> bytes:
    return hashlib.sha256(content).digest() + content


def save_state(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def rename_key(state: dict[str, Any]) -> object:
    return {("weights" if key == "model" else key): value for key, value in state.items()}


def replace_tensors(state: dict[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> object:
    return state | {"model": {name: change(tensor) for name, tensor in state["model"].items()}}


@dataclass
class NotTensors:
    """What `weights_only` refuses to load."""

    text: str = "code"


INVALID: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "nothing": lambda _: b"",
    "no pickle": lambda _: b"checkpoint",
    "pickle without end": lambda _: b"\x80\x02}q\x00(",
    "code": lambda _: save_state(NotTensors()),
    "zip cut short": lambda state: save_state(state)[:-100],
    "list": lambda _: save_state([1, 2]),
    "None": lambda _: save_state(None),
    "no keys": lambda _: save_state({}),
    "another key": lambda state: save_state(rename_key(state)),
    "other shapes": lambda state: save_state(replace_tensors(state, lambda tensor: tensor[..., None])),
    "no numbers": lambda state: save_state(replace_tensors(state, lambda tensor: tensor * math.nan)),
    "generator": lambda state: save_state(state | {"generator": torch.zeros(3, dtype=torch.uint8)}),
    "no epoch": lambda state: save_state(state | {"history": []}),
    "too many epochs": lambda state: save_state(
        state
        | {
            "history": [state["history"][0] | {"epoch": epoch} for epoch in range(1, 10)],
            "epoch_seconds": [1.0] * 9,
        }
    ),
    "no best epoch": lambda state: save_state(state | {"best": None}),
    "best of another network": lambda state: save_state(
        state | {"best": state["best"] | {"tensors": {"weight": torch.zeros(2)}}}
    ),
    "optimizer": lambda state: save_state(
        state
        | {
            "optimizer": state["optimizer"]
            | {"state": {i: {"momentum_buffer": torch.zeros(7, 7)} for i in state["optimizer"]["state"]}}
        }
    ),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, bytes]:
    """The splits, the folder of a training that ended after two epochs of three, and what all three make."""
    folder = tmp_path_factory.mktemp("training")
    splits = save_brightness_splits(folder / "splits", train=60, val=20)
    uninterrupted = run_train(folder / "whole", splits)
    run_train(folder / "interrupted", splits, until=2)
    return splits, folder / "interrupted", uninterrupted


def run_train(folder: Path, splits: Path, until: int | None = None) -> bytes:
    folder.mkdir(exist_ok=True)
    weights, history = folder / "model.safetensors", folder / "history.csv"
    train(splits, weights, history, build_config(epochs=3), progress=lambda *_: None, until=until)
    return b"".join(file.read_bytes() for file in (weights, history) if file.exists())


@pytest.mark.parametrize(
    ("invalid", "number"),
    [*((invalid, 1) for invalid in INVALID.values()), (INVALID["generator"], 2)],
    ids=[*INVALID, "both"],
)
def test_training_skips_a_sealed_checkpoint_that_is_none(
    interrupted: tuple[Path, Path, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    invalid: Callable[[dict[str, Any]], bytes],
    number: int,
) -> None:
    splits, folder, uninterrupted = interrupted
    copy = shutil.copytree(folder, tmp_path / "copy")
    files = sorted(copy.rglob("epoch-*.pt"), reverse=True)
    for file in files[:number]:
        state = torch.load(io.BytesIO(file.read_bytes()[DIGEST_BYTES:]), weights_only=True)
        file.write_bytes(seal(invalid(state)))
    assert run_train(copy, splits) == uninterrupted
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "checkpoint" in line] == [
        *(f"skipping corrupt checkpoint {file}" for file in files[:number]),
        *(["resuming from checkpoint after epoch 1"] if number == 1 else []),
    ]


def test_lack_of_memory_is_no_fault_of_a_checkpoint(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, "fingerprint").save(1, {"epochs": 1})

    def check(_: object) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        CheckpointStore(tmp_path, "fingerprint").load_latest(check)
    assert CheckpointStore(tmp_path, "fingerprint").load_latest() == {"epochs": 1}
