import numpy as np
import pytest

from tasks.reporting.charts import MAX_LABELED_CLASSES, plot_confusion_matrix

MAX_BYTES = 400_000  # of a report's 2 MB


@pytest.mark.parametrize("num_classes", [MAX_LABELED_CLASSES, MAX_LABELED_CLASSES + 1, 1000])
def test_confusion_matrix_stays_small_whatever_the_number_of_classes(num_classes: int) -> None:
    classes = [f"class {i}" for i in range(num_classes)]
    counts = 7 * np.eye(num_classes, dtype=np.int64)
    svg = plot_confusion_matrix(counts, classes)
    assert len(svg) < MAX_BYTES
    is_labeled = num_classes <= MAX_LABELED_CLASSES
    assert ("class 3" in svg) is is_labeled
    assert ("<image" in svg) is not is_labeled
