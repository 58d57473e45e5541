from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.additions import (
    ADDITIONS_DIR,
    VAL_SHARE,
    add_image,
    assign_split,
    is_added,
    load_added_images,
    pixel_sha256,
)
from tasks.dataset.base import ChecksumError
from tasks.params import SplitConfig
from tasks.split import split
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

CLASSES = ("cat", "dog")


def random_images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def save_as_before(data: Path, label: str, image: np.ndarray) -> Path:
    """As versions did in which all additions were for training."""
    file = data / ADDITIONS_DIR / label / f"{pixel_sha256(image)}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file)
    return file


def images_by_split(count: int = 60) -> dict[str, list[np.ndarray]]:
    images: dict[str, list[np.ndarray]] = {"train": [], "val": []}
    for image in random_images(count):
        images[assign_split(pixel_sha256(image))].append(image)
    return images


def test_assign_split_is_decided_by_the_first_32_bits() -> None:
    assert assign_split("19999999" + "f" * 24) == "val"  # 0x19999999 is the last below 0.1 * 2**32
    assert assign_split("1999999a" + "0" * 24) == "train"
    splits = [assign_split(pixel_sha256(image)) for image in random_images(2000)]
    assert splits.count("val") / 2000 == pytest.approx(VAL_SHARE, abs=0.02)


def test_load_added_images_returns_what_was_added(tmp_path: Path) -> None:
    images = images_by_split()
    added = [(images["train"][0], "dog"), (images["train"][1], "cat"), (images["val"][0], "dog")]
    assert [add_image(tmp_path, label, image) for image, label in added] == ["train", "train", "val"]
    read = load_added_images(tmp_path, CLASSES, 32)
    assert read.train.labels.tolist() == [0, 1]
    assert np.array_equal(read.train.images, [images["train"][1], images["train"][0]])
    assert read.val.labels.tolist() == [1]
    assert np.array_equal(read.val.images, [images["val"][0]])
    assert len(read.md5) == 32
    assert is_added(tmp_path, "dog", pixel_sha256(images["val"][0]))
    assert not is_added(tmp_path, "cat", pixel_sha256(images["val"][0]))
    add_image(tmp_path, "cat", images["train"][1])  # once more changes nothing
    assert load_added_images(tmp_path, CLASSES, 32).md5 == read.md5


def test_load_added_images_of_none_is_empty(tmp_path: Path) -> None:
    added = load_added_images(tmp_path, CLASSES, 32)
    for part in (added.train, added.val):
        assert (part.images.shape, part.labels.shape) == ((0, 32, 32, 3), (0,))
    assert added.md5 == ""


def test_image_that_was_added_before_the_rule_stays_in_training(tmp_path: Path) -> None:
    image = images_by_split()["val"][0]
    file = save_as_before(tmp_path, "cat", image)
    assert is_added(tmp_path, "cat", pixel_sha256(image))
    added = load_added_images(tmp_path, CLASSES, 32)
    assert (len(added.train.labels), len(added.val.labels)) == (1, 0)
    add_image(tmp_path, "cat", image)  # as on another branch, merged since
    with pytest.raises(
        RunError, match=rf"\.val\.png is the same image as .*{file.name}; delete .*\.val\.png"
    ):
        load_added_images(tmp_path, CLASSES, 32)


def test_image_that_was_moved_to_the_other_split_raises(tmp_path: Path) -> None:
    image = images_by_split()["val"][0]
    add_image(tmp_path, "cat", image)
    file = tmp_path / ADDITIONS_DIR / "cat" / f"{pixel_sha256(image)}.val.png"
    file.rename(file.with_name(file.name.replace(".val.", ".train.")))
    with pytest.raises(ChecksumError, match="is not the image that was added"):
        load_added_images(tmp_path, CLASSES, 32)


def test_load_added_images_of_altered_content_raises(tmp_path: Path) -> None:
    images = random_images(2)
    file = save_as_before(tmp_path, "cat", images[0])
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


def test_split_appends_added_images_to_training_and_validation(sample_data: Path, tmp_path: Path) -> None:
    config = SplitConfig(seed=0, val_fraction=0.1, test_fraction=0.1, image_size=32)
    split(sample_data, tmp_path / "before", "sample", config)
    data = tmp_path / "data"
    data.mkdir()
    (data / "cifar-10-batches-py").symlink_to(sample_data / "cifar-10-batches-py")
    images = images_by_split()
    for image in images["train"][:5]:
        save_as_before(data, "ring", image)
    split(data, tmp_path / "old", "sample", config)
    for image in [*images["train"][5:7], *images["val"][:3]]:
        add_image(data, "ring", image)
    split(data, tmp_path / "after", "sample", config)
    before, old, after = (load_splits(tmp_path / name) for name in ("before", "old", "after"))
    assert "val_added" not in before.metadata
    assert "val_added" not in old.metadata
    assert old.val.images.equal(before.val.images)
    assert len(old.train.labels) == len(before.train.labels) + 5
    assert old.train.labels[-5:].tolist() == [1] * 5
    assert len(after.train.labels) == len(before.train.labels) + 7
    num_own = len(before.val.labels)
    assert after.metadata["val_added"] == len(after.val.labels) - num_own == 3
    assert after.val.images[:num_own].equal(before.val.images)
    assert {image.numpy().tobytes() for image in after.val.images[num_own:]} == {
        image.tobytes() for image in images["val"][:3]
    }
    assert after.test.images.equal(before.test.images)
    assert len({splits.metadata["data_md5"] for splits in (before, old, after)}) == 3
