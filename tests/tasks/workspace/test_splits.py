from pathlib import Path

import pytest
import torch

from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors


def test_round_trip(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.rand(2, dtype=torch.float64)}
    save_tensors(tmp_path / "x", tensors, {"classes": ["ä", "b"], "mean": [0.1]})
    back, about = load_tensors(tmp_path / "x")
    assert about == {"classes": ["ä", "b"], "mean": [0.1]}
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_same_content_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(3)}
    save_tensors(tmp_path / "x", tensors, {"one": 1, "two": 2})
    save_tensors(tmp_path / "y", dict(reversed(tensors.items())), {"two": 2, "one": 1})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04K\x01.", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RunError, match="was not written by this pipeline, or is damaged"):
        load_tensors(tmp_path / "x")


def test_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the stage that makes it has to run first"):
        load_tensors(tmp_path / "x")


def test_other_tensors_are_no_splits(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {})
    with pytest.raises(RunError, match="holds no splits: 'train_images' is missing"):
        load_splits(tmp_path / "x")
