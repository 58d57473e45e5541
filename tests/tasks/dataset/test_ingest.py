import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset import cifar10 as files
from tasks.dataset.additions import load_added_images
from tasks.dataset.ingest import IngestResult, ingest, list_pending, rejected_markdown
from tasks.dataset.synthetic import CLASSES
from tasks.params import IngestConfig
from tasks.workspace.errors import InputError

OPTIONS = IngestConfig(folder="incoming", max_hamming_distance=4)


@pytest.fixture
def data(sample_data: Path, tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    (data / "cifar-10-batches-py").symlink_to(sample_data / "cifar-10-batches-py")
    return data


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


def put(incoming: Path, name: str, image: NDArray[np.uint8], **config: int) -> Path:
    file = incoming / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(file, **config)
    return file


def new(seed: int, side: int = 200) -> NDArray[np.uint8]:
    """A picture that resembles no other: large blobs."""
    blobs = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(blobs).resize((side, side), Image.Resampling.BICUBIC))


def run(incoming: Path, data: Path) -> IngestResult:
    return ingest(incoming, data, "sample", OPTIONS)


def reasons(incoming: Path) -> dict[str, str]:
    with (incoming / "rejected" / "reasons.csv").open(newline="") as table:
        return {row["file"]: row["reason"] for row in csv.DictReader(table)}


def test_new_pictures_are_taken(incoming: Path, data: Path) -> None:
    put(incoming, "ring/a.png", new(1))
    put(incoming, "ring/b.JPG", new(2, 31))
    put(incoming, "disc/c.jpeg", new(3, 400))
    intake = run(incoming, data)
    assert intake.accepted == {"ring": 2, "disc": 1}
    assert not intake.rejected
    images, labels, _ = load_added_images(data, CLASSES)
    assert (images.shape, sorted(labels)) == ((3, 32, 32, 3), [0, 1, 1])
    assert sorted(str(f.relative_to(incoming)) for f in incoming.rglob("*.*")) == [
        "accepted/disc/c.jpeg",
        "accepted/ring/a.png",
        "accepted/ring/b.JPG",
    ]
    assert not list_pending(incoming)
    assert run(incoming, data) == IngestResult(intake.accepted - intake.accepted, {})


def test_known_pictures_are_refused_altered_or_not(incoming: Path, data: Path) -> None:
    whole = files.load(data, "sample")
    put(incoming, "ring/test.png", whole.test_images[7])
    put(incoming, "ring/test.jpg", whole.test_images[8], quality=75)
    larger = np.array(Image.fromarray(whole.test_images[9]).resize((128, 128), Image.Resampling.BICUBIC))
    put(incoming, "ring/larger.png", larger)
    put(incoming, "ring/train.png", whole.train_images[3])
    put(incoming, "disc/once.png", new(1))
    put(incoming, "disc/twice.png", new(1))
    intake = run(incoming, data)
    assert intake.accepted == {"disc": 1}
    said = reasons(incoming)
    assert said["ring/test.png"] == "the same pixels as an image of the test set"
    assert said["ring/test.jpg"].startswith("nearly the same as an image of the test set")
    assert said["ring/larger.png"].startswith("nearly the same as an image of the test set")
    assert said["ring/train.png"] == "the same pixels as a training image of the data set"
    assert said["disc/twice.png"] == "the same pixels as a picture that came with this one"
    put(incoming, "ring/again.png", new(1))
    run(incoming, data)
    assert reasons(incoming)["ring/again.png"] == "the same pixels as a picture that was added before"


def test_a_broken_tree_loses_nothing(incoming: Path, data: Path, tmp_path: Path) -> None:
    put(incoming, "zebra/a.png", new(1))
    put(incoming, "loose.png", new(2))
    put(incoming, "ring/deep/er.png", new(3))
    put(incoming, "ring/good.png", new(4))
    (incoming / "ring/broken.png").write_bytes(b"no picture")
    (incoming / "ring/notes.txt").write_text("for later")
    (incoming / "ring/link.png").symlink_to(tmp_path / "elsewhere.png")
    (incoming / "ring/folder-link").symlink_to(tmp_path)
    (incoming / "ring/.DS_Store").write_bytes(b"")
    os.truncate(put(incoming, "ring/cut.png", new(5)), 300)
    bomb = Image.new("1", (20_000, 20_000))
    bomb.save(incoming / "ring/bomb.png")
    before = len([f for f in incoming.rglob("*") if f.is_symlink() or f.is_file()])
    intake = run(incoming, data)
    assert intake.accepted == {"ring": 1}
    said = reasons(incoming)
    assert "in no class's folder; the classes are disc, ring" in said["zebra/a.png"]
    assert "in no class's folder" in said["loose.png"]
    assert "in no class's folder" in said["ring/deep/er.png"]
    assert "not a picture" in said["ring/broken.png"]
    assert said["ring/notes.txt"] == "neither PNG nor JPEG by its name"
    assert said["ring/link.png"] == said["ring/folder-link"] == "a link, or no plain file"
    assert "broken picture" in said["ring/cut.png"]
    assert "million pixels" in said["ring/bomb.png"]
    assert len([f for f in incoming.rglob("*") if f.is_symlink() or f.is_file()]) == before + 1
    assert not list_pending(incoming)


def test_one_of_the_same_name_is_kept_beside_the_other(incoming: Path, data: Path) -> None:
    for _ in range(2):
        file = incoming / "ring/x.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no picture")
        run(incoming, data)
    assert {f.name for f in (incoming / "rejected/ring").iterdir()} == {"x.png", "x-2.png"}
    assert len(reasons(incoming)) == 2


def test_incoming_is_a_file(incoming: Path) -> None:
    incoming.write_text("")
    with pytest.raises(InputError, match="is no folder"):
        list_pending(incoming)


def test_many_refused_make_a_short_table() -> None:
    rows = rejected_markdown([(f"cat/{i}|.png", "why") for i in range(30)])
    assert len(rows) == 23
    assert rows[2] == "| cat/0\\|.png | why |"
    assert "10 more" in rows[-1]
    assert rejected_markdown([]) == []
