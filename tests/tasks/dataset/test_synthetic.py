from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tasks.dataset import cifar
from tasks.dataset.synthetic import CLASSES, generate_sample


def test_generate_sample_is_deterministic_per_seed(tmp_path: Path, sample_data: Path) -> None:
    generate_sample(tmp_path / "again", seed=0)
    generate_sample(tmp_path / "other", seed=1)
    for file in (sample_data / cifar.CIFAR10.folder).iterdir():
        assert (tmp_path / "again" / cifar.CIFAR10.folder / file.name).read_bytes() == file.read_bytes()
    assert cifar.SAMPLE.load(tmp_path / "other").md5 != cifar.SAMPLE.load(sample_data).md5


def test_generate_sample_labels_are_the_same_on_every_machine(sample_data: Path) -> None:
    """NumPy promises this stream for all versions; the first labels are drawn by it before any image."""
    expected = np.random.RandomState(0).permutation(np.arange(500) % 10)
    assert cifar.SAMPLE.load(sample_data).train.labels[:500].tolist() == expected.tolist()


def test_generate_sample_is_balanced(sample_data: Path) -> None:
    dataset = cifar.SAMPLE.load(sample_data)
    assert dataset.classes == CLASSES
    assert np.bincount(dataset.train.labels).tolist() == [250] * 10
    assert np.bincount(dataset.test.labels).tolist() == [50] * 10


def test_generate_sample_classes_differ_in_shape_not_color(sample_data: Path) -> None:
    """Neighbors in the pictures' shapes are right far more often than chance; mean colors tell nothing."""
    dataset = cifar.SAMPLE.load(sample_data)

    def shapes(images: np.ndarray) -> np.ndarray:
        grey = images.astype(float).mean(3)
        return np.abs(
            grey - np.median(grey[:, [0, 0, -1, -1], [0, -1, 0, -1]], axis=1)[:, None, None]
        ).reshape(len(grey), -1)

    neighbors = KNeighborsClassifier(5).fit(shapes(dataset.train.images), dataset.train.labels)
    assert neighbors.score(shapes(dataset.test.images), dataset.test.labels) > 0.3
    colors = LogisticRegression().fit(dataset.train.images[:, 0, 0] / 255, dataset.train.labels)
    assert colors.score(dataset.test.images[:, 0, 0] / 255, dataset.test.labels) < 0.2
