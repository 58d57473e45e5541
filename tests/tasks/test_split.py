from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dataset.base import LabeledImages
from tasks.dataset.cifar import CIFAR10, SAMPLE, GeneratedSample
from tasks.params import SplitConfig
from tasks.split import channel_mean_std, split, stratified_split
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits

OPTIONS = SplitConfig(seed=0, val_fraction=0.1, test_fraction=0.1, image_size=32)


def test_split_of_cifar10_has_the_documented_sizes(cifar10: Path, tmp_path: Path) -> None:
    split(cifar10, tmp_path / "splits", "CIFAR-10", OPTIONS)
    splits = load_splits(tmp_path / "splits")
    data = CIFAR10.load(cifar10)
    assert [len(subset.labels) for subset in (splits.train, splits.val, splits.test)] == [
        45_000,
        5_000,
        10_000,
    ]
    assert splits.train.labels.bincount().tolist() == [4_500] * 10
    assert splits.val.labels.bincount().tolist() == [500] * 10
    assert np.array_equal(splits.test.images.numpy(), data.test.images)
    assert np.array_equal(splits.test.labels.numpy(), data.test.labels)

    train = splits.train.images.numpy().reshape(-1, 3) / 255
    assert splits.metadata["mean"] == pytest.approx(train.mean(0))
    assert splits.metadata["std"] == pytest.approx(train.std(0))
    assert splits.metadata["classes"] == list(data.classes)


def test_split_has_each_training_image_once(sample_data: Path, tmp_path: Path) -> None:
    split(sample_data, tmp_path / "splits", "sample", OPTIONS)
    splits = load_splits(tmp_path / "splits")
    data = SAMPLE.load(sample_data)
    known = {
        image.tobytes(): label for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    seen = [
        (image.numpy().tobytes(), int(label))
        for subset in (splits.train, splits.val)
        for image, label in zip(subset.images, subset.labels, strict=True)
    ]
    assert len(seen) == len(dict(seen)) == 2_500
    assert dict(seen) == known


def test_split_normalizes_by_the_training_images_alone(sample_data: Path, tmp_path: Path) -> None:
    split(sample_data, tmp_path / "splits", "sample", OPTIONS)
    splits = load_splits(tmp_path / "splits")
    train, *others = (
        part.images.numpy().reshape(-1, 3) / 255 for part in (splits.train, splits.val, splits.test)
    )
    assert splits.metadata["mean"] == pytest.approx(train.mean(0), rel=1e-12)
    assert splits.metadata["std"] == pytest.approx(train.std(0), rel=1e-9)
    for pixels in others:  # which are so different that the test would notice
        assert splits.metadata["mean"] != pytest.approx(pixels.mean(0), rel=1e-6)
        assert splits.metadata["std"] != pytest.approx(pixels.std(0), rel=1e-6)


def test_split_is_deterministic_per_seed(sample_data: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        split(
            sample_data,
            tmp_path / name,
            "sample",
            SplitConfig(seed=seed, val_fraction=0.1, test_fraction=0.1, image_size=32),
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_split_indices_are_the_same_on_every_machine() -> None:
    """The Mersenne Twister's first numbers for seed 0, and Fisher-Yates by hand on four members."""
    bits = iter([2357136044, 2546248239, 3071714933, 3626093760, 2588848963, 3684848379])
    order = [0, 1, 2, 3]
    for i in (3, 2, 1):
        mask = 3 if i > 1 else 1
        while (j := next(bits) & mask) > i:
            pass
        order[i], order[j] = order[j], order[i]
    _, val = stratified_split(np.zeros(4, dtype=np.int64), 0.5, seed=0)
    assert val.tolist() == sorted(order[:2])


@given(st.lists(st.integers(0, 3), min_size=20, max_size=200), st.floats(0.2, 0.8), st.integers(0, 100))
def test_split_indices_are_disjoint_and_stratified(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array([*labels, *([0, 1, 2, 3] * 5)])
    train, val = stratified_split(array, fraction, seed)
    assert sorted([*train, *val]) == list(range(len(array)))
    for label in range(4):
        assert (array[val] == label).sum() == round(int((array == label).sum()) * fraction)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_split_fraction_that_leaves_a_class_empty_raises(fraction: float) -> None:
    with pytest.raises(InputError, match="leaves a class without images in one of the splits"):
        stratified_split(np.arange(20) % 2, fraction, 0)


def test_channel_statistics_match_hand_calculation() -> None:
    images = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    images[0, 0, :, 1] = 255
    mean, std = channel_mean_std(images)
    assert mean == [0.0, 0.5, 0.0]
    assert std == [0.0, 0.5, 0.0]


def test_split_says_what_is_special_about_the_data_set(sample_data: Path, tmp_path: Path) -> None:
    """The sample has a warning; the pictures' hash is the data set's own where none were added."""
    split(sample_data, tmp_path / "splits", "sample", OPTIONS)
    metadata = load_splits(tmp_path / "splits").metadata
    assert SAMPLE.warning
    assert metadata["dataset_warning"] == SAMPLE.warning
    assert metadata["data_md5"] == SAMPLE.load(sample_data).md5
    assert "val_added" not in metadata


def test_split_without_images_of_a_class_names_it(
    sample_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SAMPLE.load(sample_data)
    kept = data.train.labels != 3
    without = replace(data, train=LabeledImages(data.train.images[kept], data.train.labels[kept]))
    monkeypatch.setattr(GeneratedSample, "load", lambda *_: without)
    with pytest.raises(RunError, match=r"has no training image of the class frame"):
        split(sample_data, tmp_path / "splits", "sample", OPTIONS)
    assert not (tmp_path / "splits").exists()
