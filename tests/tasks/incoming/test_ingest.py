import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset.additions import assign_split, load_added_images, pixel_sha256
from tasks.dataset.cifar import SAMPLE
from tasks.dataset.synthetic import CLASSES
from tasks.incoming.ingest import ClassGrowth, IngestResult, ingest
from tasks.incoming.label_check import load_images
from tasks.incoming.pending import list_pending
from tasks.params import IngestConfig, SplitConfig
from tasks.workspace.errors import InputError, RunError

CONFIG = IngestConfig(folder="incoming", max_hamming_distance=4)
SPLIT_CONFIG = SplitConfig(seed=0, val_fraction=0.1, test_fraction=0.1, image_size=32)


@pytest.fixture
def data(sample_data: Path, tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "cifar-10-batches-py").symlink_to(sample_data / "cifar-10-batches-py")
    return data


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


def save_image(incoming: Path, name: str, image: NDArray[np.uint8], quality: int = 95) -> Path:
    file = incoming / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, quality=quality)
    return file


def blobs(seed: int, side: int = 200) -> NDArray[np.uint8]:
    """An image that resembles no other: large blobs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def run(incoming: Path, data: Path) -> IngestResult:
    return ingest(incoming, data, "sample", CONFIG, SPLIT_CONFIG)


def reasons(incoming: Path) -> dict[str, str]:
    with (incoming / "rejected" / "reasons.csv").open(newline="") as table:
        return {row["file"]: row["reason"] for row in csv.DictReader(table)}


def test_ingest_accepts_new_images(incoming: Path, data: Path) -> None:
    save_image(incoming, "ring/a.png", blobs(1))
    save_image(incoming, "ring/b.JPG", blobs(2, 31))
    save_image(incoming, "disc/c.jpeg", blobs(3, 400))
    result = run(incoming, data)
    assert result.accepted == {"ring": 2, "disc": 1}
    assert not result.rejected
    added = load_added_images(data, CLASSES, 32)
    assert sorted([*added.train.labels, *added.val.labels]) == [0, 1, 1]
    assert sorted(str(f.relative_to(incoming)) for f in incoming.rglob("*.*")) == [
        "accepted/disc/c.jpeg",
        "accepted/ring/a.png",
        "accepted/ring/b.JPG",
    ]
    assert not list_pending(incoming)
    assert run(incoming, data) == IngestResult(result.accepted - result.accepted, {})


def test_ingest_lets_content_decide_the_split_and_counts_growth(incoming: Path, data: Path) -> None:
    images: dict[str, list[NDArray[np.uint8]]] = {"train": [], "val": []}
    for seed in range(60):
        image = blobs(seed, 32)
        images[assign_split(pixel_sha256(image))].append(image)
    added = [*images["train"][:3], *images["val"][:2]]
    for i, image in enumerate(added[1:]):
        save_image(incoming, f"ring/{i}.png", image)
    run(incoming, data)
    save_image(incoming, "ring/last.png", added[0])
    result = run(incoming, data)
    assert result.accepted == {"ring": 1}
    published = SAMPLE.load(data).train.labels
    assert result.growth["ring"] == ClassGrowth(int((published == CLASSES.index("ring")).sum()), 3, 2)
    assert result.growth["ring"].share == 5 / result.growth["ring"].published
    assert result.growth["disc"].share == 0
    assert result.growth.keys() == {*CLASSES}
    assert len(load_added_images(data, CLASSES, 32).val.labels) == 2


def test_ingest_rejects_exact_and_near_duplicates(incoming: Path, data: Path) -> None:
    published = SAMPLE.load(data)
    save_image(incoming, "ring/test.png", published.test.images[7])
    save_image(incoming, "ring/test.jpg", published.test.images[8], quality=75)
    larger = np.array(Image.fromarray(published.test.images[9]).resize((128, 128), Image.Resampling.BICUBIC))
    save_image(incoming, "ring/larger.png", larger)
    save_image(incoming, "ring/train.png", published.train.images[3])
    save_image(incoming, "disc/once.png", blobs(1))
    save_image(incoming, "disc/twice.png", blobs(1))
    result = run(incoming, data)
    assert result.accepted == {"disc": 1}
    found = reasons(incoming)
    assert found["ring/test.png"] == "exact duplicate of an image of the test set"
    assert found["ring/test.jpg"].startswith("near-duplicate of an image of the test set")
    assert found["ring/larger.png"].startswith("near-duplicate of an image of the test set")
    assert found["ring/train.png"] == "exact duplicate of a training image of the data set"
    assert found["disc/twice.png"] == "exact duplicate of another new image"
    save_image(incoming, "ring/again.png", blobs(1))
    run(incoming, data)
    assert reasons(incoming)["ring/again.png"] == "exact duplicate of an image that was added before"


def test_ingest_of_invalid_files_rejects_each_and_loses_none(
    incoming: Path, data: Path, tmp_path: Path
) -> None:
    save_image(incoming, "zebra/a.png", blobs(1))
    save_image(incoming, "loose.png", blobs(2))
    save_image(incoming, "ring/deep/er.png", blobs(3))
    save_image(incoming, "ring/good.png", blobs(4))
    (incoming / "ring/broken.png").write_bytes(b"no image")
    (incoming / "ring/notes.txt").write_text("for later")
    (incoming / "ring/link.png").symlink_to(tmp_path / "elsewhere.png")
    (incoming / "ring/folder-link").symlink_to(tmp_path)
    (incoming / "ring/.DS_Store").write_bytes(b"")
    os.truncate(save_image(incoming, "ring/cut.png", blobs(5)), 300)
    bomb = Image.new("1", (20_000, 20_000))
    bomb.save(incoming / "ring/bomb.png")
    before = len([f for f in incoming.rglob("*") if f.is_symlink() or f.is_file()])
    result = run(incoming, data)
    assert result.accepted == {"ring": 1}
    found = reasons(incoming)
    assert "not in a class directory; classes: disc, ring" in found["zebra/a.png"]
    assert "not in a class directory" in found["loose.png"]
    assert "not in a class directory" in found["ring/deep/er.png"]
    assert "not an image in one of the formats" in found["ring/broken.png"]
    assert "not an image in one of the formats" in found["ring/notes.txt"]
    assert found["ring/link.png"] == found["ring/folder-link"] == "not a regular file"
    assert "corrupt image" in found["ring/cut.png"]
    assert "million pixels" in found["ring/bomb.png"]
    assert len([f for f in incoming.rglob("*") if f.is_symlink() or f.is_file()]) == before + 1
    assert not list_pending(incoming)


def test_ingest_of_a_name_rejected_before_keeps_both_files(incoming: Path, data: Path) -> None:
    for _ in range(2):
        file = incoming / "ring/x.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no image")
        run(incoming, data)
    assert {f.name for f in (incoming / "rejected/ring").iterdir()} == {"x.png", "x-2.png"}
    assert len(reasons(incoming)) == 2


def test_list_pending_of_a_file_raises(incoming: Path) -> None:
    incoming.write_text("")
    with pytest.raises(InputError, match="is not a directory"):
        list_pending(incoming)


def test_ingest_interrupted_between_adding_and_moving_is_finished_by_the_next(
    incoming: Path, data: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    save_image(incoming, "ring/a.png", blobs(1))
    save_image(incoming, "ring/b.png", blobs(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(RunError, match=r"cannot move .*a\.png to .*accepted/ring: Invalid cross-device"):
            run(incoming, data)
    result = run(incoming, data)
    assert (result.accepted, result.rejected) == ({"ring": 2}, {})
    assert sorted(file.name for file in (incoming / "accepted/ring").iterdir()) == ["a.png", "b.png"]
    added = load_added_images(data, CLASSES, 32)
    assert len(added.train.labels) + len(added.val.labels) == 2
    assert not list_pending(incoming)
    assert not [file for file in incoming.iterdir() if file.name.startswith(".")]


def test_ingest_killed_before_adding_takes_the_image_anew(incoming: Path, data: Path) -> None:
    save_image(incoming, "ring/a.png", blobs(1))
    (incoming / ".accepting.json").write_text('{"file": "ring/a.png", "digest": "0"}')
    assert run(incoming, data).accepted == {"ring": 1}


def test_ingest_rejects_pipes_and_odd_names_at_once(incoming: Path, data: Path) -> None:
    save_image(incoming, "ring/good.png", blobs(1))
    os.mkfifo(incoming / "ring/pipe.png")
    (incoming / "ring/device.png").symlink_to("/dev/zero")
    odd = incoming / os.fsdecode(b"caf\xe9\x1b")
    odd.mkdir()
    save_image(incoming, "ring/other.png", blobs(2)).rename(odd / "a.png")
    latin = incoming / "ring" / os.fsdecode(b"caf\xe9.png")
    save_image(incoming, "ring/other.png", blobs(3)).rename(latin)
    result = run(incoming, data)
    assert result.accepted == {"ring": 2}
    assert sorted(result.rejected.values())[:2] == ["not a regular file", "not a regular file"]
    assert result.rejected[str(odd.relative_to(incoming) / "a.png")].startswith("not in a class directory")


def test_load_images_leaves_pipes_to_the_ingestion_and_names_are_text(incoming: Path) -> None:
    save_image(incoming, "ring/good.png", blobs(1)).rename(incoming / "ring" / os.fsdecode(b"caf\xe9.png"))
    os.mkfifo(incoming / "ring/pipe.png")
    assert load_images(incoming, CLASSES, 32).names == [r"ring/caf\udce9.png"]
