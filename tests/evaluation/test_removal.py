"""How precision, recall, density and coverage move when an item is left out, against leaving it out."""

from collections.abc import Callable

import numpy as np
import pytest

from reals.evaluation import distances
from reals.evaluation.bootstrap import mean_estimate
from reals.evaluation.precision_recall import Arithmetic, density_coverage, precision_recall

Membership = Callable[[np.ndarray], np.ndarray]


def _inside(points: np.ndarray, centres: np.ndarray, k: int) -> np.ndarray:
    own = np.sort(np.square(centres[:, None] - centres[None]).sum(-1), axis=1)[:, k]
    return np.square(points[:, None] - centres[None]).sum(-1) <= own


def _without_each(points: np.ndarray, centres: np.ndarray, k: int, of: Membership) -> np.ndarray:
    """Return the change of each point's value by leaving out each centre: [points, centres]."""
    whole = of(_inside(points, centres, k).astype(float))
    less = [of(_inside(points, np.delete(centres, item, axis=0), k).astype(float)) for item in range(len(centres))]
    return whole[:, None] - np.stack(less, axis=1)


def _expected(changes: np.ndarray) -> np.ndarray:
    points, centres = changes.shape
    mean = changes.mean(axis=0)
    noise = changes.var(axis=0, ddof=1).sum() / points
    centred = mean - mean.mean()
    return centres * centred * max(0.0, 1 - noise / np.square(centred).sum()) ** 0.5


def _sets(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(60, 3)), rng.normal(size=(300, 3)) * 1.4


@pytest.mark.parametrize("side", [7, 1280])
def test_shares_move_as_if_items_were_left_out(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", side)
    few, many = _sets()
    expected = _expected(_without_each(many, few, 3, lambda inside: np.asarray(inside.any(axis=1) * 1.0)))
    assert np.square(expected).sum() > 0
    np.testing.assert_allclose(precision_recall(few, many).reference_influence, expected, atol=1e-9)
    np.testing.assert_allclose(precision_recall(many, few).sample_influence, expected, atol=1e-9)


def test_density_moves_as_if_items_were_left_out() -> None:
    few, many = _sets()
    changes = _without_each(many, few, 5, lambda inside: np.asarray(inside.sum(axis=1) / 5))
    found = density_coverage(few, many).reference_influence
    # What is counted as noise leaves out how gains of neighbouring balls go together, so the scale is close, no more.
    assert np.corrcoef(found, changes.mean(axis=0))[0, 1] == pytest.approx(1, abs=1e-9)
    assert found.std() == pytest.approx(_expected(changes).std(), rel=0.1)


def test_coverage_moves_as_if_samples_were_left_out() -> None:
    samples, reference = _sets()
    radii = np.sort(np.square(reference[:, None] - reference[None]).sum(-1), axis=1)[:, 5]
    inside = np.square(reference[:, None] - samples[None]).sum(-1) <= radii[:, None]
    changes = (inside & (inside.sum(axis=1, keepdims=True) == 1)).astype(float)
    found = density_coverage(reference, samples).sample_influence
    np.testing.assert_allclose(found, _expected(changes), atol=1e-9)


def test_points_beside_outliers_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from reals.evaluation import removal

    few, many = _sets()
    whole = precision_recall(few, many).reference_influence
    monkeypatch.setattr(removal, "_REMEMBERED", 1)
    short = precision_recall(few, many).reference_influence
    assert not np.array_equal(short, whole)
    assert np.corrcoef(short, whole)[0, 1] > 0.7


@pytest.mark.parametrize("arithmetic", ["exact", "adm_fp16"])
def test_intervals_are_as_wide_as_fresh_sets_spread(arithmetic: Arithmetic) -> None:
    """Both sets' randomness: resampling the verdicts alone is a third too narrow for recall here."""

    def measured(seed: int) -> tuple[float, float, float, float]:
        rng = np.random.default_rng(seed)
        reference, samples = (rng.normal(size=(count, 8)).astype(np.float32) for count in (500, 150))
        found = precision_recall(reference, samples, arithmetic=arithmetic)
        more = {"samples": found.sample_influence}
        alone, both = (
            mean_estimate(found.reference_inside, role="reference", more=used, seed=seed).replicates.std()
            for used in (None, more)
        )
        return found.recall, alone, both, float(found.reference_influence.mean())

    recalls, alone, both, mean = np.array([measured(seed) for seed in range(60)]).T
    assert both.mean() == pytest.approx(recalls.std(), rel=0.25)
    assert alone.mean() < 0.75 * recalls.std()
    assert np.abs(mean).max() < 1e-9
