import json
from pathlib import Path

import numpy as np
import pytest

from reals.evaluation import precision_recall as module
from reals.evaluation.precision_recall import precision_recall


@pytest.mark.golden
def test_agrees_with_the_adm_evaluator_in_exact_arithmetic(golden: Path) -> None:
    arrays = np.load(golden / "metrics" / "pr_small.npz", allow_pickle=False)
    expected = json.loads((golden / "metrics" / "values.json").read_text())["precision_recall"]["small"]["fp32"]
    result = precision_recall(arrays["A"], arrays["B"])
    assert (result.precision, result.recall) == (expected["precision"], expected["recall"])
    assert (len(result.sample_inside), len(result.reference_inside)) == (420, 300)


def _by_hand(reference: np.ndarray, samples: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a[:, None] - b[None]).sum(-1)

    radius = {name: np.sort(squared(x, x), 1)[:, k] for name, x in (("reference", reference), ("samples", samples))}
    across = squared(samples, reference)
    in_reference, in_samples = across <= radius["reference"], radius["samples"] >= across.T
    return np.asarray(in_reference.any(axis=1)), np.asarray(in_samples.any(axis=1))


@pytest.mark.parametrize("grid", [False, True])
def test_blocks_and_ties_do_not_change_membership(grid: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    # On an integer grid far from zero most comparisons are ties, where rounding would decide by chance.
    reference, samples = (
        (rng.integers(0, 4, (40, 3)) + 1000.1 if grid else rng.normal(size=(40, 3))) for _ in range(2)
    )
    result = precision_recall(reference, samples, neighbours=2)
    sample_inside, reference_inside = _by_hand(reference, samples, 2)
    assert np.array_equal(result.sample_inside, sample_inside)
    assert np.array_equal(result.reference_inside, reference_inside)


def test_collapse_lowers_recall_and_noise_lowers_precision() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200, 4))
    collapsed = precision_recall(reference, np.repeat(reference[:1], 50, axis=0))
    assert collapsed.precision == 1.0
    assert collapsed.recall == 1 / 200
    noisy = precision_recall(reference, rng.normal(size=(200, 4)) * 6)
    assert noisy.precision < 0.3 < noisy.recall


def test_a_set_against_itself_is_perfect() -> None:
    items = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    result = precision_recall(items, items)
    assert (result.precision, result.recall) == (1.0, 1.0)


def test_too_few_items_are_refused() -> None:
    with pytest.raises(ValueError, match="samples: 3 items"):
        precision_recall(np.zeros((10, 2)), np.zeros((3, 2)))
