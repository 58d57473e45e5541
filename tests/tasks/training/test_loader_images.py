import os
from pathlib import Path

import pytest
import torch

from tasks.training import loader
from tasks.training.loader import ImageStore
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits
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
