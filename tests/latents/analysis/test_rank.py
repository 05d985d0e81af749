import numpy as np
import pytest

from reals.latents.analysis.rank import cells, covariance_rank, rank_of_spectrum


def test_rank_of_known_spectra() -> None:
    flat = rank_of_spectrum(np.ones(7))
    assert flat.effective == pytest.approx(7)
    assert flat.participation == pytest.approx(7)
    single = rank_of_spectrum(np.array([3.0, 0.0, -1e-17]))
    assert single.effective == pytest.approx(1)
    assert single.participation == pytest.approx(1)
    # Shares 1/2, 1/4, 1/4: entropy 1.5 ln 2, sum of squares 3/8.
    mixed = rank_of_spectrum(np.array([2.0, 1.0, 1.0]))
    assert mixed.effective == pytest.approx(2**1.5)
    assert mixed.participation == pytest.approx(8 / 3)


def test_the_smaller_product_has_the_same_rank() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 12)) * np.linspace(1, 3, 12) + 50
    eigenvalues = np.linalg.eigvalsh(np.cov(vectors.T))
    assert covariance_rank(vectors).effective == pytest.approx(rank_of_spectrum(eigenvalues).effective)
    assert covariance_rank(vectors).ceiling == 12
    few = covariance_rank(vectors[:6])
    assert few.effective == pytest.approx(rank_of_spectrum(np.linalg.eigvalsh(np.cov(vectors[:6].T))).effective)
    assert few.ceiling == 5


def test_what_does_not_vary_has_no_rank() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        covariance_rank(np.ones((5, 3)))
    with pytest.raises(ValueError, match="two vectors"):
        covariance_rank(np.ones((1, 3)))


def test_cells_are_channel_vectors() -> None:
    latents = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    assert cells(latents).shape == (8, 3)
    assert cells(latents)[1].tolist() == latents[0, :, 0, 1].tolist()
    assert cells(latents)[4].tolist() == latents[1, :, 0, 0].tolist()
