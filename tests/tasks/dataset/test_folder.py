"""Images of one's own, on small generated ones."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dvc.repo import Repo
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset import folder
from tasks.dataset.base import LoadedDataset, LoadOptions
from tasks.dataset.folder import copy_images, list_images
from tasks.workspace.errors import InputError
from tests.images import save_image_folder

OPTIONS = LoadOptions(seed=0, val_fraction=0.2, test_fraction=0.3, image_size=8)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of ten images of other sizes and formats; not yet recorded."""
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    return save_image_folder(Path("data"), ("cat", "ant", "bee"), 10, size=16)


def load(data: Path, options: LoadOptions = OPTIONS) -> LoadedDataset:
    with Repo() as repo:
        repo.add(str(data))
    return folder.IMAGE_FOLDER.load(data, options, lambda *_: None)


def to_set(images: NDArray[np.uint8]) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_load_splits_by_content_in_each_class(data: Path) -> None:
    dataset = load(data)
    assert dataset.classes == ("ant", "bee", "cat")
    assert dataset.val is not None
    for part, count in ((dataset.train, 5), (dataset.val, 2), (dataset.test, 3)):
        assert part.images.shape == (3 * count, 8, 8, 3)
        assert np.bincount(part.labels).tolist() == [count] * 3
    assert len(to_set(np.concatenate([dataset.train.images, dataset.val.images, dataset.test.images]))) == 30


def test_load_does_not_depend_on_file_names_for_the_splits(data: Path) -> None:
    first = load(data)
    for i, file in enumerate(sorted(data.rglob("*.*"), reverse=True)):
        file.rename(file.with_name(f"{i}{file.suffix}"))
    again = load(data)
    assert to_set(again.test.images) == to_set(first.test.images)
    assert first.val is not None
    assert again.val is not None
    assert to_set(again.val.images) == to_set(first.val.images)
    assert again.md5 != first.md5
    other = load(data, replace(OPTIONS, seed=1))
    assert to_set(other.test.images) != to_set(first.test.images)


def test_load_takes_given_splits_and_orders_by_file_name(tmp_path: Path, data: Path) -> None:
    shutil.rmtree(data)
    for split, names in (("train", "ac"), ("val", "e"), ("test", "g")):
        for label, offset in (("x", 0), ("y", 1)):
            for name in names:
                file = data / split / label / f"{chr(ord(name) + offset)}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (ord(file.stem), 0, 0)).save(file)
    dataset = load(data)
    assert dataset.val is not None
    order = [
        "".join(chr(image[0, 0, 0]) for image in part.images)
        for part in (dataset.train, dataset.val, dataset.test)
    ]
    assert order == ["abcd", "ef", "gh"]
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]


def test_load_takes_a_missing_split_from_training(data: Path) -> None:
    (data / "train").mkdir()
    for label in ("ant", "bee", "cat"):
        (data / label).rename(data / "train" / label)
    save_image_folder(data / "test", ("ant", "bee", "cat"), 2, size=8, seed=5)
    dataset = load(data)
    assert dataset.val is not None
    counts = [len(part.labels) for part in (dataset.train, dataset.val, dataset.test)]
    assert counts == [24, 6, 6]


def test_load_names_all_problems_at_once(data: Path) -> None:
    (data / "train").mkdir()
    for label in ("ant", "bee", "cat"):
        (data / label).rename(data / "train" / label)
    save_image_folder(data / "test", ("ant", "bee", "dog"), 2, size=8, seed=5)
    (data / "train" / "owl").mkdir()
    (data / "train" / "bee" / "notes.txt").write_text("no image")
    copied = next((data / "train" / "ant").iterdir())
    shutil.copy(copied, data / "test" / "ant" / "again.png")
    with pytest.raises(InputError) as caught:
        load(data)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "data cannot be used:"
    assert "test/dog: a class that train does not have" in lines
    assert "train/bee/notes.txt: not an image in one of the formats" in "\n".join(lines)
    assert any("again.png" in line and "the same image as" in line for line in lines)
    assert "owl: no image for train; a class needs 3 different images or more" in lines
    assert "cat: no image for test; a class needs 3 different images or more" in lines


def test_load_of_one_image_in_two_classes_is_an_input_error(data: Path) -> None:
    shutil.copy(next((data / "ant").iterdir()), data / "bee" / "copy.png")
    with pytest.raises(InputError, match="the same image as"):
        load(data)


def test_load_shows_the_first_problems_only(data: Path) -> None:
    for i in range(30):
        (data / "ant" / f"{i}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="and 10 more"):
        load(data)


@pytest.mark.parametrize("change", ["added", "changed", "removed"])
def test_load_of_data_that_are_not_as_recorded_is_an_input_error(data: Path, change: str) -> None:
    load(data)
    file = next((data / "ant").iterdir())
    if change == "removed":
        file.unlink()
    else:
        Image.new("RGB", (9, 9), "red").save(file if change == "changed" else file.with_name("new.png"))
    with pytest.raises(InputError, match="record it: dvc add data"):
        folder.IMAGE_FOLDER.load(data, OPTIONS, lambda *_: None)
    load(data)


def test_load_of_data_that_were_never_recorded_is_an_input_error(data: Path) -> None:
    with pytest.raises(InputError, match=r"data\.dvc not found; record the images first: dvc add data"):
        folder.IMAGE_FOLDER.load(data, OPTIONS, lambda *_: None)


def test_load_of_more_than_fits_into_memory_says_so_before_it_starts(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        pytest.fail("it started")

    monkeypatch.setattr(folder, "_decode", decode)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000))
    with pytest.raises(InputError, match=r"30 images of 8 x 8 pixels need 0\.7 GB of memory"):
        load(data)


def test_load_reports_progress(data: Path) -> None:
    reports: list[tuple[float, str]] = []
    with Repo() as repo:
        repo.add(str(data))
    folder.IMAGE_FOLDER.load(data, OPTIONS, lambda *report: reports.append(report))
    assert reports == [(1.0, "decoding, 30 of 30 images")]


def too_many() -> Iterator[str]:
    yield from (f"c{i}" for i in range(1001))


@pytest.mark.parametrize(
    ("classes", "message"), [(("one",), "1 classes; 2 to 1,000"), (tuple(too_many()), "1,001 classes")]
)
def test_load_of_too_few_or_many_classes_is_an_input_error(
    data: Path, classes: tuple[str, ...], message: str
) -> None:
    shutil.rmtree(data)
    save_image_folder(data, classes, 1, size=8)
    with pytest.raises(InputError, match=message):
        load(data)


def test_list_images_ignores_what_file_managers_leave_and_additions(data: Path) -> None:
    for name in (".DS_Store", "ant/.DS_Store", "ant/Thumbs.db", "additions/ant/x.png", ".hidden/x/y.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(b"")
    assert len(list_images(data).files) == 30


def test_list_images_of_a_pipe_is_one_line_at_once(data: Path) -> None:
    os.mkfifo(data / "ant" / "pipe.png")
    with pytest.raises(InputError, match=r"^data cannot be used: data/ant/pipe\.png: not a regular file$"):
        list_images(data)


@pytest.mark.parametrize("name", [b"tab\x1bular", b"caf\xe9", b"new\nline", "left\u202e".encode()])
def test_list_images_of_a_class_whose_name_cannot_be_printed_is_one_line(data: Path, name: bytes) -> None:
    (data / "ant").rename(data / os.fsdecode(name))
    with pytest.raises(InputError, match=r"^data cannot be used: [ -~]*: the name of a class must be print"):
        list_images(data)


def test_list_images_of_a_name_that_is_not_utf_8_is_one_line(data: Path) -> None:
    file = next((data / "ant").iterdir())
    file.rename(file.with_name(os.fsdecode(b"caf\xe9.png")))
    with pytest.raises(InputError, match=r"^data cannot be used: data/ant/caf\\udce9\.png: .* not UTF-8"):
        list_images(data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.png", "data/x.png: not in the folder of a class"),
        ("ant/deep/x.png", "data/ant/deep: a folder in the folder of a class"),
    ],
)
def test_list_images_of_a_file_in_no_class_is_an_input_error(data: Path, name: str, message: str) -> None:
    (data / name).parent.mkdir(exist_ok=True)
    (data / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"^data cannot be used: {message}$"):
        list_images(data)


def test_list_images_does_not_walk_through_links_without_end(data: Path) -> None:
    """Some forty levels deep the system gives up; each has two ways to go on."""
    for name in ("one", "two"):
        (data / "ant" / name).symlink_to("..")
    with pytest.raises(InputError) as caught:
        list_images(data)
    assert str(caught.value).count("a folder in the folder of a class") == 2


def test_copy_images_leaves_out_what_is_no_image_and_names_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (
        "ant/1.HEIC",
        "ant/2.heic",
        "bee/notes.txt",
        "bee/empty.jpg",
        "owl/only.heic",
        "ant/.DS_Store",
    ):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"\0\0\0\x18ftypheic" if "heic" in name.lower() else b"")
    (data / "eel").mkdir()
    (data / "additions/ant").mkdir(parents=True)
    left_out = copy_images(data, tmp_path / "copy")
    assert str(left_out) == (
        "5 files that cannot be read as images (ant/1.HEIC, ant/2.heic, bee/empty.jpg, …), "
        "2 classes without an image (eel, owl), 1 hidden file (.DS_Store), "
        "1 folder of images that a retraining added (additions)"
    )
    assert capsys.readouterr().err == "copying 35 images\n"
    copied = [file for file in (tmp_path / "copy").rglob("*") if file.is_file()]
    assert len(copied) == 30
    assert all(
        file.read_bytes() == (data / file.relative_to(tmp_path / "copy")).read_bytes() for file in copied
    )


def test_copy_images_of_nothing_that_can_be_read_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "images/ant").mkdir(parents=True)
    (tmp_path / "images/ant/1.heic").write_bytes(b"heic")
    with pytest.raises(
        InputError, match=r"no images that can be read; left out: 1 file that .* \(ant/1.heic\)"
    ):
        copy_images(tmp_path / "images", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_copy_images_of_a_split_folder_names_files_beside_the_splits(data: Path, tmp_path: Path) -> None:
    (data / "train").mkdir()
    for label in ("ant", "bee", "cat"):
        (data / label).rename(data / "train" / label)
    (data / "README.txt").write_text("where they are from")
    assert str(copy_images(data, tmp_path / "copy")) == "1 file in no class folder (README.txt)"


@pytest.mark.parametrize(("made", "message"), [(True, "has no images"), (False, "not found")])
def test_list_images_of_nothing_is_an_input_error(tmp_path: Path, *, made: bool, message: str) -> None:
    if made:
        (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        list_images(tmp_path / "empty")
