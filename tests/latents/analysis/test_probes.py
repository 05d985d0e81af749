from collections.abc import Callable

import numpy as np
import pytest

from reals.latents.analysis.probes import flat, knn_accuracy, linear_probe, pooled


def _clusters(count: int, seed: int, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = 5.0 + np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return (centres[labels] + rng.normal(0, spread, (count, 3))).astype(np.float32), labels


def test_flat_keeps_positions_and_pooled_averages_them() -> None:
    latents = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    assert flat(latents).tolist() == latents.reshape(2, 12).tolist()
    assert pooled(latents)[0].tolist() == [1.5, 5.5, 9.5]


def test_neighbours_find_separable_classes_beside_a_large_common_mean() -> None:
    (train_x, train_y), (test_x, test_y) = _clusters(150, 0), _clusters(60, 1)
    correct = knn_accuracy(train_x, train_y, test_x, test_y)
    assert correct.shape == (60,)
    assert correct.mean() > 0.9


@pytest.mark.parametrize("probe", [knn_accuracy, linear_probe])
def test_unrelated_labels_are_at_chance(probe: Callable[..., np.ndarray]) -> None:
    (train_x, train_y), (test_x, test_y) = _clusters(300, 0), _clusters(300, 1)
    shuffled = np.random.default_rng(2).permutation(train_y)
    assert 0.2 < probe(train_x, shuffled, test_x, test_y).mean() < 0.47


def test_one_neighbour_agrees_with_a_search_by_hand() -> None:
    (train_x, train_y), (test_x, test_y) = _clusters(50, 0, 2.0), _clusters(40, 1, 2.0)
    centre = train_x.mean(0)
    a, b = train_x - centre, test_x - centre
    cosine = (b @ a.T) / np.linalg.norm(a, axis=1)
    expected = train_y[cosine.argmax(1)] == test_y
    assert np.array_equal(knn_accuracy(train_x, train_y, test_x, test_y, neighbours=1), expected)


def test_ties_go_to_the_nearer_class() -> None:
    train_x = np.array([[1, 0.0], [1, 0.5], [-1, 0.1], [-1, -0.6]], np.float32)
    train_y = np.array([1, 0, 0, 1])
    test = np.array([[1.0, 0.0]], np.float32)
    assert knn_accuracy(train_x, train_y, test, np.array([1]), neighbours=2).tolist() == [True]
    # Whatever the similarities, two votes beat one.
    assert knn_accuracy(train_x[:3], train_y[:3], test, np.array([0]), neighbours=3).tolist() == [True]


def test_probe_finds_classes_and_reports_each_item() -> None:
    (train_x, train_y), (test_x, test_y) = _clusters(150, 0), _clusters(60, 1)
    correct = linear_probe(train_x * [1, 100, 0.01], train_y, test_x * [1, 100, 0.01], test_y)
    assert correct.mean() > 0.9
    assert correct.dtype == bool


def test_probe_draws_its_training_items_by_seed() -> None:
    (train_x, train_y), (test_x, test_y) = _clusters(400, 0, 1.5), _clusters(400, 1, 1.5)
    runs = [linear_probe(train_x, train_y, test_x, test_y, maximum_train=30, seed=seed).tolist() for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_probe_stops_quietly_at_its_limit() -> None:
    train_x, train_y = _clusters(100, 0)
    assert linear_probe(train_x, train_y, train_x, train_y, maximum_iterations=1).shape == (100,)


def test_probes_refuse_what_they_cannot_learn_from() -> None:
    x, y = _clusters(10, 0)
    with pytest.raises(ValueError, match="20 neighbours"):
        knn_accuracy(x, y, x, y)
    with pytest.raises(ValueError, match="two classes"):
        linear_probe(x, np.zeros(10, int), x, y)
