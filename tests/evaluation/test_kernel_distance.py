import numpy as np
import pytest

from reals.evaluation import distances
from reals.evaluation.bootstrap import linearised_estimate
from reals.evaluation.kernel_distance import clip_discrepancy, kernel_inception_distance


def _sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(23, 6)).astype(np.float32), rng.normal(size=(17, 6)).astype(np.float32) + 0.5


def _kid(x: np.ndarray, y: np.ndarray) -> float:
    def total(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) @ b.T.astype(np.float64) / a.shape[1] + 1) ** 3

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (total(x, x), total(y, y))]
    return float(within[0] + within[1] - 2 * total(x, y).mean())


@pytest.mark.parametrize("side", [5, 2048])
def test_kid_is_its_definition_in_any_tiles(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", side)
    x, y = _sets()
    assert kernel_inception_distance(x, y).value == pytest.approx(_kid(x, y), rel=1e-5)
    assert kernel_inception_distance(y, x).value == pytest.approx(_kid(x, y), rel=1e-5)


def test_kid_has_no_bias_although_sets_are_small() -> None:
    rng = np.random.default_rng(0)
    values = [kernel_inception_distance(*rng.normal(size=(2, 12, 4)).astype(np.float32)).value for _ in range(100)]
    assert abs(np.mean(values)) < 3 * np.std(values) / len(values) ** 0.5
    assert min(values) < 0


def test_influence_gives_the_spread_of_fresh_sets() -> None:
    def fresh(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(100, 3)).astype(np.float32), rng.normal(size=(80, 3)).astype(np.float32) + 1

    spread = np.std([kernel_inception_distance(*fresh(seed)).value for seed in range(80)])
    found = kernel_inception_distance(*fresh(999))
    influences = {"reference": found.reference_influence, "samples": found.sample_influence}
    assert linearised_estimate(found.value, influences).replicates.std() == pytest.approx(spread, rel=0.3)


def test_cmmd_is_its_definition() -> None:
    x, y = (items / np.linalg.norm(items, axis=1, keepdims=True) for items in _sets())

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squared = np.square(a[:, None].astype(np.float64) - b[None]).sum(-1)
        return float(np.exp(-squared / (2 * 10.0**2)).mean())

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert clip_discrepancy(*_sets()).value == pytest.approx(expected, rel=1e-3)
    assert clip_discrepancy(x, x).value == pytest.approx(0, abs=1e-6)


def test_one_item_is_refused() -> None:
    with pytest.raises(ValueError, match="found 1 and 23"):
        kernel_inception_distance(_sets()[0][:1], _sets()[0])
