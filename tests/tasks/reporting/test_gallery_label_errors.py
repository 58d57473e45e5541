import numpy as np
import pytest

from tasks.reporting.gallery import find_label_errors
from tests.tasks.reporting.random_predictions import random_predictions


def test_find_label_errors_finds_wrong_labels_before_right_ones() -> None:
    probabilities, labels = random_predictions()
    certain = np.flatnonzero(probabilities[np.arange(400), labels] > 0.7)[:8]
    wrong = labels.copy()
    wrong[certain] = (labels[certain] + 3) % 10
    found = find_label_errors(wrong, probabilities)
    assert set(certain) <= set(found[:12].tolist())
    assert not set(np.flatnonzero(probabilities.argmax(1) == wrong)) & set(found.tolist())
    assert found.tolist() == find_label_errors(wrong, probabilities).tolist()


def test_find_label_errors_where_a_class_has_no_image() -> None:
    probabilities, labels = random_predictions()
    kept = labels != 4
    wrong = labels[kept].copy()
    certain = int(probabilities[kept][np.arange(kept.sum()), wrong].argmax())
    wrong[certain] = (wrong[certain] + 1) % 10 if wrong[certain] != 3 else 5
    assert certain in find_label_errors(wrong, probabilities[kept])


def test_find_label_errors_of_believed_labels_is_empty() -> None:
    labels = np.arange(30) % 3
    assert find_label_errors(labels, (0.1 + 0.7 * np.eye(3)[labels]).astype(np.float32)).tolist() == []


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (2, 2), (5, 3), (40, 100), (300, 1000)])
def test_find_label_errors_of_few_images_doubts_no_believed_label(count: int, classes: int) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.full(classes, 0.1), count).astype(np.float32)
    found = find_label_errors(labels, probabilities)
    assert (probabilities[found].argmax(1) != labels[found]).all()
