import pytest
import torch
from torch import Generator, Tensor

from tasks.training import loader
from tasks.training.loader import BatchLoader, Normalize
from tasks.workspace.splits import Split
from tests.brightness import build_config

NORMALIZE = Normalize([0.0] * 3, [1 / 255] * 3, 4, torch.device("cpu"))  # values stay as they are
IMAGES = torch.arange(50).to(torch.uint8)[:, None, None, None].repeat(1, 4, 4, 3)
DATA = Split(IMAGES, torch.arange(50) % 10)


def load(seed: int = 0, epoch: int = 1, **changes: object) -> list[loader.Batch]:
    config = build_config(**{"batch_size": 8, **changes})
    batches = BatchLoader(DATA, 10, NORMALIZE, config, Generator().manual_seed(seed))
    torch.manual_seed(seed)  # for torchvision's transforms
    return list(batches.load_epoch(epoch))


def numbers(batches: list[loader.Batch]) -> Tensor:
    return torch.cat([batch.inputs[:, 0, 0, 0] for batch in batches]).round()


def test_an_epoch_has_every_image_once_with_its_label_in_random_order() -> None:
    batches = load()
    assert [len(batch.labels) for batch in batches] == [8] * 6 + [2]
    order = numbers(batches)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), order.long() % 10)
    assert all(batch.targets is batch.labels for batch in batches)
    assert not torch.equal(order, numbers(load(seed=1)))


@pytest.mark.parametrize("batches_per_chunk", [1, 2, 3])
def test_chunks_change_nothing_without_augmentation(
    monkeypatch: pytest.MonkeyPatch, batches_per_chunk: int
) -> None:
    whole = load()
    monkeypatch.setitem(loader.CHUNK_BYTES, "cpu", batches_per_chunk * 8 * 48 + 5)
    for chunked, batch in zip(load(), whole, strict=True):
        assert torch.equal(chunked.inputs, batch.inputs)
        assert torch.equal(chunked.labels, batch.labels)


def test_alternating_flips_follow_an_image_through_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loader.CHUNK_BYTES, "cpu", 1)
    images = IMAGES.clone()
    images[:, :, 0] = 200  # marks the left border
    config = build_config(batch_size=8, flip="alternating")
    batches = BatchLoader(Split(images, DATA.labels), 10, NORMALIZE, config, Generator().manual_seed(0))
    mirrored = []
    for epoch in (1, 2):
        inputs = torch.cat([batch.inputs for batch in batches.load_epoch(epoch)])
        order = inputs[:, 0, 0, 1].round().argsort()
        mirrored.append(inputs[order, 0, 0, 3].round() == 200)
    assert torch.equal(mirrored[0], ~mirrored[1])


def test_mixed_batches_keep_the_labels_for_the_accuracy() -> None:
    (batch, *_) = load(mixup_alpha=1.0)
    assert batch.targets.shape == (8, 10)
    assert batch.labels.dtype == torch.int64
