import numpy as np
import pytest

from reals.latents.analysis.interpolation import midpoints, nearest_partners, random_partners


def test_the_nearest_other_latent_by_hand() -> None:
    latents = np.array([0.0, 1.0, 10.0, 10.5, 3.0])[:, None, None, None]
    assert nearest_partners(latents).tolist() == [1, 0, 3, 2, 1]


def test_the_nearest_other_latent_agrees_with_a_full_search() -> None:
    latents = np.random.default_rng(0).normal(size=(700, 2, 2, 2)).astype(np.float32)
    rows = latents.reshape(700, -1)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.array_equal(nearest_partners(latents), distances.argmin(1))


def test_random_partners_are_others_and_each_serves_once() -> None:
    partners = random_partners(50, seed=3)
    assert sorted(partners) == list(range(50))
    assert (partners != np.arange(50)).all()
    assert partners.tolist() == random_partners(50, seed=3).tolist() != random_partners(50, seed=4).tolist()
    assert random_partners(2).tolist() == [1, 0]


def test_midpoints_lie_between() -> None:
    latents = np.array([0.0, 2.0, 7.0])[:, None, None, None]
    assert midpoints(latents, np.array([1, 2, 2])).reshape(-1).tolist() == [1.0, 4.5, 7.0]


def test_one_latent_has_no_partner() -> None:
    with pytest.raises(ValueError, match="at least two"):
        nearest_partners(np.zeros((1, 1, 2, 2)))
    with pytest.raises(ValueError, match="at least two"):
        random_partners(1)
