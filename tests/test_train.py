import csv
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from models.net import Net
from tasks.artifacts import read_tensors, write_tensors
from tasks.errors import InputError, RunError
from tasks.params import Train, read_params
from tasks.train import train

ABOUT = {
    "dataset": "sample",
    "classes": [f"class {i}" for i in range(10)],
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}
HISTORY = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Splits of pictures whose class is their brightness."""
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 400), ("val", 100), ("test", 10)):
        labels = torch.arange(count) % 10
        noise = torch.randint(20, (count, 32, 32, 3), generator=generator)
        tensors[f"{name}_images"] = (noise + 23 * labels[:, None, None, None]).to(torch.uint8)
        tensors[f"{name}_labels"] = labels
    write_tensors(tmp_path / "splits.safetensors", tensors, ABOUT)
    return tmp_path / "splits.safetensors"


def options(**changes: object) -> Train:
    default = read_params(Path(__file__).parents[1] / "params.yaml").train
    return Train.model_validate(default.model_dump() | {"device": "cpu", "epochs": 3} | changes)


def trained(splits: Path, **changes: object) -> bytes:
    weights = splits.with_name("weights.safetensors")
    train(splits, weights, splits.with_name("history.csv"), options(**changes))
    return weights.read_bytes()


def rows(splits: Path) -> list[dict[str, str]]:
    with splits.with_name("history.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_the_talks_network() -> None:
    assert sum(parameter.numel() for parameter in Net().parameters()) == 62_006


def test_learns(splits: Path) -> None:
    trained(splits, epochs=12)
    assert float(rows(splits)[-1]["val_accuracy"]) > 0.5


def test_same_bytes_twice_and_others_with_another_seed(splits: Path) -> None:
    torch.manual_seed(1)
    first = trained(splits)
    torch.manual_seed(2)  # global state takes no part
    assert trained(splits) == first
    assert trained(splits, seed=1) != first


def test_history_has_a_row_an_epoch(splits: Path) -> None:
    trained(splits)
    assert list(rows(splits)[0]) == HISTORY
    assert [row["epoch"] for row in rows(splits)] == ["1", "2", "3"]


def test_best_epoch_is_kept(splits: Path) -> None:
    trained(splits, epochs=6, lr=0.01)
    _, about = read_tensors(splits.with_name("weights.safetensors"))
    best = max(rows(splits), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert about["epoch"] == int(best["epoch"])


def test_weights_that_blow_up_stop_the_run_and_leave_the_last_ones(splits: Path) -> None:
    before = trained(splits)
    with pytest.raises(RunError, match=r"the loss is .* in epoch \d.*lr"):
        trained(splits, lr=1e30)
    assert splits.with_name("weights.safetensors").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        trained(splits, device="cuda")
