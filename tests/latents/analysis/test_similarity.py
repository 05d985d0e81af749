import numpy as np
import pytest

from reals.latents.analysis.similarity import cell_similarity, linear_cka


def _rotation(size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(9).normal(size=(size, size)))[0]


def test_alignment_ignores_rotation_scale_and_shift() -> None:
    x = np.random.default_rng(0).normal(size=(60, 5)) * [1, 2, 3, 4, 5]
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 7 * x @ _rotation(5) + 3) == pytest.approx(1)


def test_unrelated_features_have_none_even_in_many_dimensions() -> None:
    rng = np.random.default_rng(1)
    values = [linear_cka(rng.normal(size=(50, 5)), rng.normal(size=(50, 400))) for _ in range(40)]
    assert abs(np.mean(values)) < 0.03
    # The usual, biased alignment of one such pair is far from zero.
    x, y = (rng.normal(size=(50, width)) for width in (5, 400))
    x, y = x - x.mean(0), y - y.mean(0)
    biased = np.square(x.T @ y).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert biased > 0.2


def test_alignment_equals_the_form_with_kernel_matrices() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(12, 3))
    y = np.concatenate([2 * x[:, :1], rng.normal(size=(12, 3))], axis=1)

    def product(a: np.ndarray, b: np.ndarray) -> float:
        n = len(a)
        k, m = a @ a.T, b @ b.T
        np.fill_diagonal(k, 0)
        np.fill_diagonal(m, 0)
        first = np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2))
        return (first - 2 * (k @ m).sum() / (n - 2)) / (n * (n - 3))

    expected = product(x, y) / np.sqrt(product(x, x) * product(y, y))
    assert linear_cka(x, y) == pytest.approx(expected)
    assert 0.1 < expected < 0.9


def test_few_or_constant_items_cannot_be_aligned() -> None:
    with pytest.raises(ValueError, match="four items"):
        linear_cka(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="does not vary"):
        linear_cka(np.ones((6, 2)), np.eye(6))


def test_cells_are_compared_with_the_chosen_one() -> None:
    latents = np.zeros((1, 2, 2, 2))
    latents[0, :, 0, 0] = (1, 0)
    latents[0, :, 0, 1] = (5, 0)
    latents[0, :, 1, 0] = (0, 2)
    latents[0, :, 1, 1] = (-1, 1)
    np.testing.assert_allclose(cell_similarity(latents, 0, 0)[0], [[1, 1], [0, -np.sqrt(0.5)]])
    np.testing.assert_allclose(cell_similarity(latents, 1, 0)[0], [[0, 0], [1, np.sqrt(0.5)]])
