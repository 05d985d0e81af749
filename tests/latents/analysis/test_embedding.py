import numpy as np
import pytest

from reals.latents.analysis.embedding import choose_by_class, plane


def test_items_are_drawn_by_class() -> None:
    labels = np.repeat(np.arange(15), 20)[np.random.default_rng(0).permutation(300)]
    chosen = choose_by_class(labels, classes=10, each=7, seed=1)
    assert len(chosen) == len(set(chosen.tolist())) == 70
    assert np.unique(labels[chosen], return_counts=True)[1].tolist() == [7] * 10
    assert (np.diff(labels[chosen]) >= 0).all()
    assert choose_by_class(labels, classes=10, each=7, seed=1).tolist() == chosen.tolist()
    assert set(labels[choose_by_class(labels, seed=2)]) != set(labels[chosen])
    assert len(choose_by_class(labels, classes=99, each=99)) == 300


def test_separate_clusters_stay_apart_and_the_map_repeats() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    vectors = rng.normal(size=(60, 8)) + 20 * np.eye(8)[labels]
    points = plane(vectors, seed=1)
    assert points.shape == (60, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(1)] == labels).all()
    assert np.array_equal(points, plane(vectors, seed=1))


def test_three_points_are_no_map() -> None:
    with pytest.raises(ValueError, match="four vectors"):
        plane(np.eye(3))
