"""Splits of images whose class is their brightness: a task that a network learns within a second."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from tasks.params import Params, read_params
from tasks.params.train import TrainConfig
from tasks.workspace.splits import save_tensors
from tests.shipped_params import PARAMS_FILE

METADATA = {
    "dataset": "sample",
    "classes": [f"class {i}" for i in range(10)],
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "image_size": 32,
}


def save_brightness_splits(file: Path, train: int = 400, val: int = 100, test: int = 10) -> Path:
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", train), ("val", val), ("test", test)):
        labels = torch.arange(count) % 10
        noise = torch.randint(20, (count, 32, 32, 3), generator=generator)
        tensors[f"{name}_images"] = (noise + 23 * labels[:, None, None, None]).to(torch.uint8)
        tensors[f"{name}_labels"] = labels
    save_tensors(file, tensors, METADATA)
    return file


def build_config(**changes: object) -> TrainConfig:
    """The parameters of params.yaml, with a short training on one CPU thread and these changes."""
    default = read_params(PARAMS_FILE).train.model_dump()
    short = {"device": "cpu", "num_threads": 1, "epochs": 3, "batch_size": 32}
    return TrainConfig.model_validate(default | short | changes)


def build_params(config: TrainConfig, **paths: str) -> Params:
    """The parameters of params.yaml with this training, and these paths."""
    params = read_params(PARAMS_FILE)
    return params.model_copy(update={"train": config, "paths": params.paths.model_copy(update=paths)})


ADAMW = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "lr_schedule": "cosine",
    "warmup_epochs": 0.5,
    "label_smoothing": 0.05,
    "flip": True,
    "translate": 2,
    "ema_decay": 0.9,
}

AIRBENCH94 = {  # on few images: 40 per step
    "network": "airbench94",
    "batch_size": 40,
    "optimizer": "muon",
    "lr": 0.24,
    "momentum": 0.6,
    "weight_decay": 0.004,
    "lr_schedule": "linear",
    "whiten_bias_epochs": 2,
    "label_smoothing": 0.2,
    "flip": "alternating",
    "translate": 1,
    "cutout_size": 4,
    "ema_decay": 0.5,
    "tta": "flip_translate",
}
