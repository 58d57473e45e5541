from tasks.reporting.gallery import select_gallery
from tests.tasks.reporting.random_predictions import random_predictions


def test_select_gallery_sorts_by_confidence() -> None:
    probabilities, labels = random_predictions()
    mistakes, hits = select_gallery(probabilities, labels, 5)
    right = probabilities.argmax(1) == labels
    confidence = probabilities.max(1)
    assert confidence[mistakes].tolist() == sorted(confidence[~right], reverse=True)[:5]
    assert confidence[hits].tolist() == sorted(confidence[right])[:5]
