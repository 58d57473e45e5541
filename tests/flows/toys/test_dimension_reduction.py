import numpy as np
import pytest
from sklearn.decomposition import PCA

from flows.toys.dimension_reduction import (
    find_components,
    measure_loss,
    measure_vehicles,
    project,
    standardize,
)


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
def test_components_equal_scikit_learn(noise: float) -> None:
    standardized = standardize(measure_vehicles(200, noise, seed=3))
    components, expected = find_components(standardized), PCA(3).fit(standardized)
    signs = np.sign((components.directions * expected.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(components.directions[:2], (signs * expected.components_)[:2], atol=1e-9)
    shares = components.variances / components.variances.sum()
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, atol=1e-9)
    kept = project(standardized, components, 2)
    np.testing.assert_allclose(kept, (signs[:2, 0] * expected.transform(standardized)[:, :2]), atol=1e-9)
    lost = 1 - expected.explained_variance_ratio_[:2].sum()
    assert measure_loss(standardized, components, 2) == pytest.approx(lost, abs=1e-9)


def test_length_and_width_become_size_and_speed_stays() -> None:
    components = find_components(standardize(measure_vehicles(2000, 0.3, seed=0)))
    size, speed, _ = components.directions
    assert size[0] == pytest.approx(size[2], abs=0.05)
    assert size[0] > 0.6 > abs(size[1])
    assert speed[1] > 0.9


def test_a_variable_that_does_not_vary_raises() -> None:
    with pytest.raises(ValueError, match="eliminated"):
        standardize(np.array([[1.0, 2.0], [1.0, 3.0]]))
