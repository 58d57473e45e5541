import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestCentroid

from flows.toys.clustering import (
    cluster,
    compute_means,
    find_nearest,
    match_clusters,
    meet_inhabitants,
    run_k_means,
    spread_centers,
)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.2, 0.8])
def test_k_means_equals_scikit_learn(k: int, spread: float) -> None:
    points, _ = meet_inhabitants(40, spread, seed=k)
    first = spread_centers(points, k, seed=1)
    found = run_k_means(points, first)
    expected = KMeans(k, init=first, n_init=1, algorithm="lloyd", tol=0).fit(points)
    np.testing.assert_array_equal(found.labels, expected.labels_)
    np.testing.assert_allclose(found.centers, expected.cluster_centers_)


def test_nearest_class_mean_equals_scikit_learn() -> None:
    points, species = meet_inhabitants(40, 0.6, seed=2)
    means = compute_means(points, species, np.zeros((3, 2)))
    expected = NearestCentroid().fit(points, species).predict(points)
    np.testing.assert_array_equal(find_nearest(points, means), expected)
    assert (expected == species).mean() < 1


def test_clusters_have_no_names_so_any_naming_counts() -> None:
    assert match_clusters(np.array([2, 2, 0, 1]), np.array([0, 0, 1, 2])) == 1
    assert match_clusters(np.array([0, 0, 0, 0]), np.array([0, 0, 1, 2])) == 0.5


def test_separate_species_are_found_without_a_label() -> None:
    points, species = meet_inhabitants(30, 0.2, seed=0)
    assert match_clusters(cluster(points, 3, 0).labels, species) == 1


def test_an_impossible_number_of_clusters_raises() -> None:
    with pytest.raises(ValueError, match="3 points make 1 to 3 clusters, not 4"):
        cluster(np.zeros((3, 2)), 4, 0)
