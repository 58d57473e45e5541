import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from torchvision.datasets import CIFAR100

from tasks.dataset import cifar
from tasks.dataset.base import ChecksumError
from tasks.dataset.cifar import restricted_loads, write_batch
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file


def write_dataset(data: Path, **changes: bytes) -> None:
    """A data set in CIFAR-10's format, four images a batch, with its checksums."""
    folder = data / cifar.CIFAR10.folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name in (*cifar.CIFAR10.train, cifar.CIFAR10.test):
        write_batch(
            folder / name, random.integers(256, size=(4, 32, 32, 3), dtype=np.uint8), [0, 1, 2, 1], name
        )
    (folder / cifar.CIFAR10.meta).write_bytes(pickle.dumps({"label_names": ["a", "b", "c"]}, protocol=3))
    for name, content in changes.items():
        (folder / name).write_bytes(content)
    files = sorted(file for file in folder.iterdir() if file.name != cifar.MD5_FILE)
    lines = [f"{hashlib.md5(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / cifar.MD5_FILE).write_text("".join(lines))


def test_load_returns_what_was_written(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    images = np.random.default_rng(1).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    write_batch(tmp_path / cifar.CIFAR10.folder / "test_batch", images, [2, 0, 1], "test")
    write_dataset(tmp_path, test_batch=(tmp_path / cifar.CIFAR10.folder / "test_batch").read_bytes())
    dataset = cifar.SAMPLE.load(tmp_path)
    assert np.array_equal(dataset.test.images, images)
    assert dataset.test.labels.tolist() == [2, 0, 1]
    assert dataset.train.images.shape == (20, 32, 32, 3)
    assert dataset.train.labels.tolist() == [0, 1, 2, 1] * 5
    assert dataset.classes == ("a", "b", "c")


def test_load_equals_torchvision_on_cifar10(cifar10: Path) -> None:
    ours = cifar.CIFAR10.load(cifar10)
    for train, images, labels in (
        (True, ours.train.images, ours.train.labels),
        (False, ours.test.images, ours.test.labels),
    ):
        theirs = torchvision.datasets.CIFAR10(str(cifar10), train=train)
        assert np.array_equal(images, theirs.data)
        assert labels.tolist() == theirs.targets
        assert list(ours.classes) == theirs.classes


def test_verify_of_a_changed_byte_raises(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    file = tmp_path / cifar.CIFAR10.folder / "data_batch_4"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(ChecksumError, match="data_batch_4 is not the published file"):
        cifar.SAMPLE.load(tmp_path)
    with pytest.raises(ChecksumError, match="data_batch_4 is not the published file"):
        cifar.SAMPLE.verify(tmp_path)


def test_verify_of_a_missing_file_names_it(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / cifar.CIFAR10.folder / "data_batch_5").unlink()
    with pytest.raises(ChecksumError, match=r"data_batch_5 cannot be read \(No such file or directory\)"):
        cifar.SAMPLE.load(tmp_path)


def test_verify_of_the_sample_as_cifar10_raises(sample_data: Path) -> None:
    with pytest.raises(ChecksumError, match="is not the published file"):
        cifar.CIFAR10.load(sample_data)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_restricted_loads_of_a_pickle_that_calls_raises(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"data": Malicious(tmp_path / "owned")}, protocol=protocol)
    with pytest.raises(RunError, match="x is not a batch of CIFAR: it asks for"):
        restricted_loads(content, "x")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "held",
    [
        np.array([Malicious(Path("x"))], dtype=object),
        np.zeros(3, dtype=np.float64),
        np.zeros(3, dtype="S8"),
        np.ma.masked_array(np.zeros(3, dtype=np.uint8)),
        np.random.default_rng(0),
        print,
        Path(),
    ],
    ids=lambda held: type(held).__name__,
)
def test_restricted_loads_admits_only_arrays_of_bytes(held: object) -> None:
    with pytest.raises(RunError, match="is not a batch of CIFAR"):
        restricted_loads(pickle.dumps({"data": held}, protocol=3), "x")


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}", b"\x80\x02]q\x01.", b"I1\n."])
def test_restricted_loads_of_other_content_raises_in_one_line(content: bytes) -> None:
    with pytest.raises(RunError, match="x is not a batch of CIFAR") as caught:
        restricted_loads(content, "x")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "numbers of images and labels differ"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "numbers of images and labels differ"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [0]}, "numbers of images and labels differ"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [3]}, "labels beyond its 3 classes"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "labels beyond its 3 classes"),
    ],
)
def test_load_of_an_inconsistent_batch_raises(tmp_path: Path, batch: dict[str, Any], message: str) -> None:
    write_dataset(tmp_path, data_batch_2=pickle.dumps(batch, protocol=3))
    with pytest.raises(RunError, match=f"data_batch_2.*{message}"):
        cifar.SAMPLE.load(tmp_path)


def test_load_without_data_names_the_command_that_downloads_it(tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match=r"not found; download it with: python -m tasks download"):
        cifar.CIFAR10.load(tmp_path / "data")


def test_load_of_cifar100_reads_fine_labels_and_checks_its_own_md5s(tmp_path: Path) -> None:
    """Files in its format, since it is not part of the repository."""
    files = cifar.CIFAR100
    folder = tmp_path / files.folder
    folder.mkdir()
    names = [f"class {i}" for i in range(100)]
    contents: dict[str, Any] = {"meta": {"fine_label_names": names, "coarse_label_names": ["coarse"] * 20}}
    for i, name in enumerate(("train", "test")):
        labels = list(range(100))
        rows = np.full((100, 3072), i, np.uint8)
        contents[name] = {"data": rows, "fine_labels": labels, "coarse_labels": [0] * 100}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(ChecksumError, match="is not the published file"):
        files.load(tmp_path)
    md5s = {name: hash_file(folder / name, "md5") for name in files.published_md5}
    dataset = replace(files, published_md5=md5s).load(tmp_path)
    assert dataset.classes == tuple(names)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == list(range(100))
    assert (dataset.train.images == 0).all()
    assert (dataset.test.images == 1).all()


def test_cifar100_checksums_are_those_of_torchvision() -> None:
    published = dict([*CIFAR100.train_list, *CIFAR100.test_list])
    published[CIFAR100.meta["filename"]] = CIFAR100.meta["md5"]
    assert cifar.CIFAR100.published_md5 == published
    assert cifar.CIFAR100.folder == CIFAR100.base_folder
