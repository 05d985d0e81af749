import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reals.evaluation import adm_distances, distances, neighbours, pairs
from reals.evaluation.memorisation import nearest_training
from reals.evaluation.precision_recall import density_coverage, precision_recall
from tests.evaluation.rounded_products import round_products


@pytest.fixture(params=[False, True], ids=["float32", "coarse"])
def _products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        round_products(monkeypatch)


def _curved(count: int, seed: int) -> np.ndarray:
    """Return features as a network's: not negative, of fewer dimensions than they are long."""
    mixing = np.random.default_rng(99).normal(size=(12, 96)).astype(np.float32)
    return np.maximum(np.random.default_rng(seed).normal(size=(count, 12)).astype(np.float32) @ mixing, 0)


@pytest.mark.parametrize("many", [0, 8192])
def test_coarse_products_change_no_result(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, samples = _curved(700, 0), _curved(600, 1) * np.float32(0.9)
    expected = precision_recall(reference, samples), density_coverage(reference, samples)
    assert 0.1 < expected[0].precision < 0.99
    assert 0.1 < expected[0].recall < 0.99
    monkeypatch.setattr(distances, "SIDE", 100)
    monkeypatch.setattr(pairs, "_MANY_PAIRS", many)
    round_products(monkeypatch)
    found = precision_recall(reference, samples), density_coverage(reference, samples)
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(other).items():
            assert np.array_equal(getattr(one, name), value), name


@pytest.mark.usefixtures("_products")
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


@pytest.mark.golden
def test_imitates_the_rounding_of_the_adm_evaluator_on_request(golden: Path) -> None:
    arrays = np.load(golden / "metrics" / "pr_small.npz", allow_pickle=False)
    expected = json.loads((golden / "metrics" / "values.json").read_text())["precision_recall"]["small"]["fp16"]
    result = precision_recall(arrays["A"], arrays["B"], arithmetic="adm_fp16")
    assert result.precision == pytest.approx(expected["precision"], abs=1e-9)
    assert result.recall == pytest.approx(expected["recall"], abs=1e-9)


def test_blocks_that_overflow_float16_are_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    reference, samples = (rng.normal(size=(60, 8)).astype(np.float32) * 300 for _ in range(2))
    exact = precision_recall(reference, samples)
    imitated = precision_recall(reference, samples, arithmetic="adm_fp16")
    assert np.array_equal(imitated.sample_inside, exact.sample_inside)
    assert np.array_equal(imitated.reference_inside, exact.reference_inside)
    # Only the block that overflows is: small features keep their ties.
    monkeypatch.setattr(adm_distances, "_BLOCK", 30)
    small = np.concatenate([reference[:30] / 300 + 16, reference[30:]])
    tiles = {
        (rows.start, columns.start): bool((distances == distances.half().float()).all())
        for rows, columns, distances in adm_distances._distances(small, small, torch.device("cpu"))
    }
    assert tiles == {(0, 0): True, (0, 30): False, (30, 0): False, (30, 30): False}


def test_a_block_may_overflow_although_no_norm_does() -> None:
    """|u|² and |v|² are 22,500, 2uv is -45,000 and the distance 90,000."""
    ends = np.array([[150.0, 0.0], [-150.0, 1.0]], np.float32)
    tile = next(adm_distances._distances(ends, ends, torch.device("cpu")))[2]
    assert tile.isfinite().all()
    assert float(tile[0, 1]) == 300.0**2 + 1


def test_blocks_are_those_of_adm() -> None:
    items = np.full((10_001, 2), 20.05, np.float32)
    items[9_999] = 300.0
    tiles = adm_distances._distances(items, np.zeros((1, 2), np.float32), torch.device("cpu"))
    distances = torch.cat([tile for _, _, tile in tiles])[:, 0]
    in_half = distances == distances.half().float()
    assert not in_half[:9_999].any()
    assert in_half[10_000]


@pytest.mark.parametrize("size", [2, 2000])
def test_rounded_distances_are_not_negative(size: float) -> None:
    """In float16, and in float32 where that overflows."""
    items = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32) * np.float32(size)
    close = items * np.float32(1 + 1e-6)
    tile = next(adm_distances._distances(items, close, torch.device("cpu")))[2]
    assert float(tile.min()) == 0.0


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("grid", [False, True])
def test_blocks_and_ties_do_not_change_membership(grid: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", 7)
    rng = np.random.default_rng(0)
    # On an integer grid far from zero most comparisons are ties, where rounding would decide by chance.
    reference, samples = (
        (rng.integers(0, 4, (40, 3)) + 1000.1 if grid else rng.normal(size=(40, 3))) for _ in range(2)
    )
    result = precision_recall(reference, samples, neighbours=2)
    sample_inside, reference_inside = _by_hand(reference, samples, 2)
    assert np.array_equal(result.sample_inside, sample_inside)
    assert np.array_equal(result.reference_inside, reference_inside)


@pytest.mark.usefixtures("_products")
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


def test_features_that_are_not_finite_are_refused() -> None:
    broken = np.zeros((10, 2))
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="samples: features are not finite"):
        precision_recall(np.zeros((10, 2)), broken)


@pytest.mark.usefixtures("_products")
def test_neighbours_lost_to_float32_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances of a cluster far from the origin drown in float32's rounding."""
    rng = np.random.default_rng(0)
    cluster = rng.normal(size=(40, 3)) * 1e-5
    items = np.concatenate([cluster + 1000, cluster - 1000])
    result = precision_recall(items, items[::2], neighbours=3)
    sample_inside, reference_inside = _by_hand(items, items[::2], 3)
    assert np.array_equal(result.sample_inside, sample_inside)
    assert np.array_equal(result.reference_inside, reference_inside)
    assert not reference_inside.all()


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("grid", [False, True])
def test_density_and_coverage_are_their_definition(grid: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "SIDE", 7)
    rng = np.random.default_rng(1)
    reference, samples = ((rng.integers(0, 4, (30, 3)) if grid else rng.normal(size=(30, 3))) * 1.0 for _ in range(2))
    found = density_coverage(reference, samples, neighbours=4)
    radii = np.sort(np.square(reference[:, None] - reference[None]).sum(-1), 1)[:, 4]
    inside = np.square(reference[:, None] - samples[None]).sum(-1) <= radii[:, None]
    assert np.array_equal(found.balls, inside.sum(0))
    assert np.array_equal(found.covered, inside.any(1))
    assert found.density == pytest.approx(inside.sum() / (4 * 30))
    assert found.coverage == inside.any(1).mean()


def test_outliers_inflate_recall_but_not_coverage() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(200, 4))
    outliers = np.concatenate([rng.normal(size=(6, 4)) * 40, reference[:20] * 0.01])
    assert precision_recall(reference, outliers).recall == 1.0
    assert density_coverage(reference, outliers).coverage < 0.5


def _tight_clusters(count: int, centres: int, spread: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middles = np.abs(np.random.default_rng(99).normal(size=(centres, 64))) * 3
    return (middles[rng.integers(0, centres, count)] + spread * rng.normal(size=(count, 64))).astype(np.float32)


@pytest.mark.parametrize(
    ("centres", "spread", "searched_again", "exact_rows"),
    [(1, 1e-2, 0, 0), (1, 1e-6, 0, 0), (5, 1e-4, 200, 0), (5, 3e-6, 200, 0), (5, 3e-7, 400, 5), (5, 1e-7, 400, 5)],
)
def test_collapsed_samples_need_no_exact_rows(
    centres: int, spread: float, searched_again: int, exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances inside a cluster are far below float32's rounding of those to the reference's mean."""
    monkeypatch.setattr(distances, "SIDE", 64)
    again, exact = [], []
    search, by_rows = neighbours._search, neighbours._exact_rows

    def count_again(items: np.ndarray, rows: np.ndarray, *others: object) -> object:
        again.append(len(rows))
        return search(items, rows, *others)  # pyright: ignore[reportArgumentType]

    def count_exact(items: np.ndarray, rows: np.ndarray, device: torch.device) -> object:
        exact.append(len(rows))
        return by_rows(items, rows, device)

    monkeypatch.setattr(neighbours, "_search", count_again)
    monkeypatch.setattr(neighbours, "_exact_rows", count_exact)
    reference = np.abs(np.random.default_rng(0).normal(size=(150, 64))).astype(np.float32)
    samples = _tight_clusters(200, centres, spread, 1)
    result = precision_recall(reference, samples)
    sample_inside, reference_inside = _by_hand(reference.astype(np.float64), samples.astype(np.float64), 3)
    assert np.array_equal(result.sample_inside, sample_inside)
    assert np.array_equal(result.reference_inside, reference_inside)
    assert sum(again) <= searched_again
    assert sum(exact) <= exact_rows


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("many", [0, 10**9])
def test_clusters_shared_by_both_sets_are_decided_exactly(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_MANY_PAIRS", many)
    reference, samples = (_tight_clusters(120, 3, 1e-5, seed) for seed in (1, 2))
    result = precision_recall(reference, samples)
    sample_inside, reference_inside = _by_hand(reference.astype(np.float64), samples.astype(np.float64), 3)
    assert np.array_equal(result.sample_inside, sample_inside)
    assert np.array_equal(result.reference_inside, reference_inside)
    assert 0 < result.precision < 1


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30, 3e37])
def test_features_of_any_size_are_compared(size: float) -> None:
    rng = np.random.default_rng(0)
    reference, samples = (rng.normal(size=(50, 4)).astype(np.float32) for _ in range(2))
    expected = precision_recall(reference, samples)
    assert 0 < expected.precision < 1
    # A power of two, so that no feature is rounded.
    power = np.float32(2.0 ** round(np.log2(size)))
    found = precision_recall(reference * power, samples * power)
    assert np.array_equal(found.sample_inside, expected.sample_inside)
    assert np.array_equal(found.reference_inside, expected.reference_inside)
    ordinary, extreme = (density_coverage(reference * by, samples * by) for by in (np.float32(1), power))
    assert np.array_equal(extreme.balls, ordinary.balls)
    ratios = [nearest_training(reference * by, samples * by).ratio for by in (np.float32(1), power)]
    assert np.array_equal(ratios[0], ratios[1])


@pytest.mark.usefixtures("_products")
@pytest.mark.parametrize("kind", ["one large feature", "one large item", "halves"])
def test_small_features_beside_large_ones_are_compared(kind: str) -> None:
    """Their squares underflow in float32, or its numbers do once the large ones are made ordinary; halves overflow."""
    rng = np.random.default_rng(0)
    reference, samples = (rng.normal(size=(50, 4)).astype(np.float32) * np.float32(2.0**-80) for _ in range(2))
    expected = precision_recall(reference, samples)
    assert 0 < expected.precision < 1
    if kind == "one large feature":
        reference, samples = (
            np.concatenate([np.ones((50, 1), np.float32), some], axis=1) for some in (reference, samples)
        )
    if kind == "one large item":
        scattered = np.full((1, 4), 2.0**60, np.float32)
        reference = np.concatenate([reference, scattered])
    if kind == "halves":
        reference, samples = (np.ldexp(some, 94).astype(np.float16) for some in (reference, samples))
    found = precision_recall(reference, samples)
    sample_inside, reference_inside = _by_hand(reference.astype(np.float64), samples.astype(np.float64), 3)
    assert np.array_equal(found.sample_inside, sample_inside)
    assert np.array_equal(found.reference_inside, reference_inside)


def test_five_neighbours_make_density_and_coverage() -> None:
    rng = np.random.default_rng(0)
    reference, samples = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    found = density_coverage(reference, samples)
    radii = np.sort(np.square(reference[:, None] - reference[None]).sum(-1), 1)[:, 5]
    inside = np.square(reference[:, None] - samples[None]).sum(-1) <= radii[:, None]
    assert np.array_equal(found.balls, inside.sum(0))
    assert found.density == pytest.approx(inside.sum() / (5 * 30))
