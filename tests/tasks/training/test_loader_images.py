import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.training import loader
from tasks.training.loader import ImageStore
from tasks.workspace.errors import RunError
from tasks.workspace.splits import Split, load_splits
from tests.brightness import save_brightness_splits

CPU = torch.device("cpu")
INDICES = torch.tensor([5, 0, 399, 5])


@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("max_mapped_bytes", [0, 2**30])
def test_gather_gives_the_images_mapped_or_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, max_mapped_bytes: int
) -> None:
    monkeypatch.setattr(loader, "MAX_MAPPED_BYTES", max_mapped_bytes)
    split = getattr(load_splits(save_brightness_splits(tmp_path / "splits")), name)
    indices = INDICES % len(split.labels)
    assert torch.equal(ImageStore(split, CPU).gather(indices), split.images[indices])


def test_gather_from_a_large_file_leaves_no_file_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loader, "MAX_MAPPED_BYTES", 0)
    store = ImageStore(load_splits(save_brightness_splits(tmp_path / "splits")).train, CPU)
    before = sorted(Path("/proc/self/fd").iterdir())
    store.gather(INDICES)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_gather_from_a_file_that_was_cut_short_is_a_run_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loader, "MAX_MAPPED_BYTES", 0)
    file = save_brightness_splits(tmp_path / "splits")
    store = ImageStore(load_splits(file).train, CPU)
    os.truncate(file, 1000)
    with pytest.raises(RunError, match="changed while it was read"):
        store.gather(INDICES)


class FakeImages:
    """Images of any size that take no memory, of which only their device and their size are known."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.device = nbytes, "cpu"

    def __getitem__(self, _: int) -> torch.Tensor:
        return torch.zeros(3072, dtype=torch.uint8)

    def to(self, device: torch.device) -> "FakeImages":
        moved = FakeImages(self.nbytes)
        moved.device = device.type
        return moved


@pytest.mark.parametrize(("free", "device"), [(200, "cuda"), (400, "cuda"), (199, "cpu")])
def test_images_go_to_a_gpu_of_which_they_take_at_most_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 1000))
    images: Any = FakeImages(100)
    store: Any = ImageStore(Split(images, torch.zeros(1)), torch.device("cuda"))
    assert store._images.device == device


def test_images_of_up_to_512_mb_are_mapped_and_more_are_read(tmp_path: Path) -> None:
    for nbytes, is_read in ((2**29, False), (2**29 + 1, True)):
        images: Any = FakeImages(nbytes)
        store = ImageStore(Split(images, torch.zeros(1), (tmp_path, 0)), CPU)
        assert (store._location is not None) == is_read
