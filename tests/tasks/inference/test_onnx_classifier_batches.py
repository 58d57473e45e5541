import numpy as np
import pytest

from tasks.inference.onnx_classifier import Images, Probabilities, predict_in_batches


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (64, [7])])
def test_predict_in_batches_covers_each_image_once_in_order(batch_size: int, sizes: list[int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    seen: list[Images] = []

    def predict(batch: Images) -> Probabilities:
        seen.append(batch)
        return batch[:, 0, 0].astype(np.float32)

    probabilities = predict_in_batches(predict, images, batch_size)
    assert [len(batch) for batch in seen] == sizes
    assert (np.concatenate(seen) == images).all()
    assert (probabilities == images[:, 0, 0]).all()
