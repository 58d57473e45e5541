from pathlib import Path

import pytest
import torch

from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors


def test_save_and_load_tensors_round_trip(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.rand(2, dtype=torch.float64)}
    save_tensors(tmp_path / "x", tensors, {"classes": ["ä", "b"], "mean": [0.1]})
    loaded, metadata = load_tensors(tmp_path / "x")
    assert metadata == {"classes": ["ä", "b"], "mean": [0.1]}
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_save_tensors_of_equal_content_writes_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(3)}
    save_tensors(tmp_path / "x", tensors, {"one": 1, "two": 2})
    save_tensors(tmp_path / "y", dict(reversed(tensors.items())), {"two": 2, "one": 1})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04K\x01.", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_load_tensors_rejects_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RunError, match="is corrupt or was not written by this pipeline"):
        load_tensors(tmp_path / "x")


def test_load_tensors_of_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not found; run the stage that produces it first"):
        load_tensors(tmp_path / "x")


def test_load_splits_rejects_other_tensors(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {})
    with pytest.raises(RunError, match="is not a splits file: 'train_images' is missing"):
        load_splits(tmp_path / "x")
