import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.toys.pooling import make_feature_map, pool, pool_by_pytorch, shift_right


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from(["max", "mean"]))
def test_pool_equals_pytorch(rows: int, columns: int, seed: int, kind: str) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    pooled = pool(values, kind)
    assert pooled.shape == (rows // 2, columns // 2)
    np.testing.assert_allclose(pooled, pool_by_pytorch(values, kind), atol=1e-12)


def test_max_keeps_the_pattern_where_it_is_while_the_image_moves_by_a_pixel() -> None:
    before = make_feature_map(0)
    after = shift_right(before, 1)
    assert not np.array_equal(before, after)
    assert pool(before, "max").argmax() == pool(after, "max").argmax()
    assert pool(before, "max").argmax() != pool(shift_right(before, 2), "max").argmax()


def test_pool_by_hand() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    assert pool(values, "max").tolist() == [[6.0]]
    assert pool(values, "mean").tolist() == [[3.0]]
    with pytest.raises(ValueError, match="at least 2x2"):
        pool(values[:1], "max")
