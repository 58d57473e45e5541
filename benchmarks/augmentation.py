"""Measure what each augmentation costs: the project's own, torchvision's on groups and on single images.

    python benchmarks/augmentation.py [--rounds 5] [--images 9000] [--threads 2]

The table has microseconds per image on random images of 32x32 pixels in one process, as medians of
interleaved rounds, and the share that an augmentation adds to a training step of the network `net`. "One by
one" is how a DataLoader calls torchvision.transforms.v2, on tensors, as its documentation recommends. Run it
on an idle machine.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torchvision.transforms import v2

from models.net import Net
from models.step import training_step
from tasks.params import read_params
from tasks.params.train import TrainConfig
from tasks.training.augment import (
    Augmentation,
    build_mixing,
    cutout,
    random_flip_and_translate,
    transform_in_groups,
)
from tasks.training.loader import Normalize

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 128
FILL = torch.tensor([125, 123, 114], dtype=torch.uint8)


def apply_one_by_one(images: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([transform(image) for image in images.permute(0, 3, 1, 2)])


def mix_batches(inputs: Tensor, labels: Tensor, config: TrainConfig) -> None:
    mix = build_mixing(config, 10)
    assert mix is not None
    for batch in zip(torch.split(inputs, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True):
        mix(*batch)


def take_steps(inputs: Tensor, labels: Tensor) -> None:
    network = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for batch in zip(torch.split(inputs, BATCH_SIZE), torch.split(labels, BATCH_SIZE), strict=True):
        training_step(network, F.cross_entropy, optimizer, *batch)


def build_variants(images: Tensor, config: TrainConfig) -> dict[str, Callable[[], object]]:
    labels = torch.arange(len(images)) % 10
    inputs = Normalize([0.5] * 3, [0.25] * 3, 32, images.device)(images)
    flip_and_crop = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(32, 4, padding_mode="reflect")])
    erase = v2.RandomErasing(p=1, scale=(0.14, 0.14), ratio=(1, 1), value=FILL.tolist())
    variants: dict[str, Callable[[], object]] = {
        "a training step of `net`": partial(take_steps, inputs, labels),
        "flip, translate by 4: own": partial(
            random_flip_and_translate, images, flip=True, max_shift=4, generator=Generator()
        ),
        "flip, translate by 4: torchvision, groups of 64": partial(
            transform_in_groups, images, flip_and_crop
        ),
        "flip, translate by 4: torchvision, one by one": partial(apply_one_by_one, images, flip_and_crop),
        "cutout of 12: own": partial(cutout, images, size=12, fill=FILL, generator=Generator()),
        "cutout of 12: torchvision, groups of 64": partial(transform_in_groups, images, erase),
        "cutout of 12: torchvision, one by one": partial(apply_one_by_one, images, erase),
    }
    policies = {"trivialaugment": v2.TrivialAugmentWide(), "randaugment": v2.RandAugment()}
    for name, policy in policies.items():
        changed = config.model_copy(update={"auto_augment": name})
        augment = Augmentation(changed, len(images), FILL, Generator())
        variants[f"{name}: torchvision, groups of 64"] = partial(
            augment, images, torch.arange(len(images)), 1
        )
        variants[f"{name}: torchvision, one by one"] = partial(apply_one_by_one, images, policy)
    for name in ("mixup_alpha", "cutmix_alpha"):
        changed = config.model_copy(update={name: 1.0})
        variants[f"{name}: torchvision, groups of 32"] = partial(mix_batches, inputs, labels, changed)
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=9000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = read_params(ROOT / "params.yaml").train
    generator = Generator().manual_seed(0)
    images = torch.randint(256, (args.images, 32, 32, 3), generator=generator).to(torch.uint8)
    variants = build_variants(images, config)
    microseconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, function in variants.items():
            began = time.perf_counter()
            function()
            microseconds[name].append((time.perf_counter() - began) / args.images * 1e6)
    step = statistics.median(next(iter(microseconds.values())))
    print("| augmentation | µs per image, median | min to max | of a training step |")
    print("| --- | ---: | --- | ---: |")
    for name, values in microseconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.1f} | {min(values):.1f} to {max(values):.1f} | {median / step:.0%} |")


if __name__ == "__main__":
    main()
