from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.additions import ADDITIONS_DIR, add_image, load_added_images
from tasks.dataset.cifar import ChecksumError
from tasks.params import SplitConfig
from tasks.split import split
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

CLASSES = ("cat", "dog")


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def test_load_added_images_returns_what_was_added(tmp_path: Path) -> None:
    images = random_images(3)
    for image, label in zip(images, ("dog", "cat", "dog"), strict=True):
        add_image(tmp_path, label, image)
    read, md5 = load_added_images(tmp_path, CLASSES, 32)
    assert sorted(read.labels) == [0, 1, 1]
    assert np.array_equal(read.images[0], images[1])
    assert {image.tobytes() for image in read.images} == {image.tobytes() for image in images}
    assert len(md5) == 32
    add_image(tmp_path, "cat", images[1])  # once more changes nothing
    assert load_added_images(tmp_path, CLASSES, 32)[1] == md5


def test_load_added_images_of_none_is_empty(tmp_path: Path) -> None:
    added, md5 = load_added_images(tmp_path, CLASSES, 32)
    assert (added.images.shape, added.labels.shape, md5) == ((0, 32, 32, 3), (0,), "")


def test_load_added_images_of_altered_content_raises(tmp_path: Path) -> None:
    images = random_images(2)
    file = add_image(tmp_path, "cat", images[0])
    Image.fromarray(images[1]).save(file)
    with pytest.raises(ChecksumError, match="is not the image that was added"):
        load_added_images(tmp_path, CLASSES, 32)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ChecksumError, match="cannot be read"):
        load_added_images(tmp_path, CLASSES, 32)


@pytest.mark.parametrize("name", ["cow/x.png", "x.png", "cat/x.txt", "cat/deep/x.png"])
def test_load_added_images_with_a_foreign_file_raises(tmp_path: Path, name: str) -> None:
    file = tmp_path / ADDITIONS_DIR / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    with pytest.raises(RunError, match="is not an added image"):
        load_added_images(tmp_path, CLASSES, 32)


def test_split_puts_added_images_into_training_only(sample_data: Path, tmp_path: Path) -> None:
    config = SplitConfig(seed=0, val_fraction=0.1, test_fraction=0.1, image_size=32)
    split(sample_data, tmp_path / "before", "sample", config)
    data = tmp_path / "data"
    data.mkdir()
    (data / "cifar-10-batches-py").symlink_to(sample_data / "cifar-10-batches-py")
    for image in random_images(5):
        add_image(data, "ring", image)
    split(data, tmp_path / "after", "sample", config)
    before, after = load_splits(tmp_path / "before"), load_splits(tmp_path / "after")
    assert len(after.train.labels) == len(before.train.labels) + 5
    assert after.train.labels[-5:].tolist() == [1] * 5
    assert after.val.images.equal(before.val.images)
    assert after.test.images.equal(before.test.images)
    assert after.metadata["data_md5"] != before.metadata["data_md5"]
