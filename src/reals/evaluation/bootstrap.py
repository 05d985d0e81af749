"""Uncertainty of every number: bootstrap replicates, and paired comparisons of two arms.

A replicate resamples the ``n`` items of a set with replacement (Efron, 1979). It depends only on the role of
the set, the replicate's number, ``n`` and the seed, so two arms with equally many items see the same resamples: where
their items correspond (the same test image, the same sampling noise and label), comparisons are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

from reals.runtime.seed import derive_seed

REPLICATES = 200
"""Replicates drawn unless a caller asks otherwise."""

LEVEL = 0.95
"""Coverage of every interval."""

_NORMAL_QUANTILE = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def resampling_counts(count: int, replicate: int, *, role: str = "samples", seed: int = 0) -> Int[np.ndarray, " n"]:
    """Draw how often each of ``count`` items appears in bootstrap replicate ``replicate``; the counts sum to ``count``.

    ``role`` keeps two sets that are not paired (a reference and samples) independent when they are equally large.
    """
    generator = np.random.default_rng(derive_seed("bootstrap", role, seed, replicate, count))
    return np.bincount(generator.integers(count, size=count), minlength=count)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A measured value with its bootstrap replicates."""

    value: float
    """The statistic of the whole set."""
    replicates: Float[np.ndarray, " r"]
    """The statistic of each resampled set."""
    margin: tuple[float, float] = (0.0, 0.0)
    """How far below and above the value the interval reaches at least: resamples of items that all agree never vary."""

    @property
    def centred(self) -> Float[np.ndarray, " r"]:
        """The replicates shifted so that their median is :attr:`value`.

        A resampled set has repeated items, hence a noisier covariance: it biases Fréchet distances upwards, often by
        more than their spread. The shift removes that bias and keeps the spread.
        """
        return self.replicates - np.median(self.replicates) + self.value

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the bias-corrected percentile interval of coverage ``level``; its margin is of coverage ``LEVEL``."""
        return _at_least(_percentiles(self.centred, level), self.value, self.margin)

    def to_dict(self) -> dict[str, float]:
        """Return ``value``, and the 95 % interval as ``low`` and ``high``, as plain numbers for JSON."""
        low, high = self.interval()
        return {"value": float(self.value), "low": low, "high": high}


def _percentiles(replicates: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(replicates, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def _at_least(interval: tuple[float, float], value: float, margin: tuple[float, float]) -> tuple[float, float]:
    """Return the interval, widened to reach ``margin`` below and above ``value`` where there is any."""
    (low, high), (below, above) = interval, margin
    return (min(low, value - below) if below else low), (max(high, value + above) if above else high)


def mean_estimate(
    values: Float[np.ndarray, " n"] | Bool[np.ndarray, " n"],
    *,
    replicates: int = REPLICATES,
    role: str = "samples",
    seed: int = 0,
    more: Mapping[str, Float[np.ndarray, " m"]] | None = None,
) -> Estimate:
    """Estimate the mean of per-item values: accuracy from correctness, PSNR from images, precision from flags.

    Args:
        values: of the items.
        replicates: how many resamples.
        role: of the items.
        seed: of the resamples.
        more: how the mean moves with the weights of other items, by their role, as in :func:`linearised_estimate`. In
            the role of ``values`` itself they are the same items seen from another side.

    Raises:
        ValueError: there are no values, or one is not finite (the PSNR of a perfect reconstruction is infinite).
    """
    items = values.astype(np.float64)
    if len(items) == 0 or not np.isfinite(items).all():
        raise ValueError(
            f"a mean needs finite values: {len(items)} given, {int((~np.isfinite(items)).sum())} not finite"
        )
    means = [
        resampling_counts(len(items), replicate, role=role, seed=seed) @ items / len(items)
        for replicate in range(replicates)
    ]
    mean, margin = float(items.mean()), (0.0, 0.0)
    if values.dtype == bool and mean in (0.0, 1.0):
        reach = _agreement_margin(len(items))
        margin = (reach, 0.0) if mean else (0.0, reach)
    drawn = np.array(means, dtype=np.float64)
    if more:
        drawn += linearised_estimate(0.0, more, replicates=replicates, seed=seed).replicates
    return Estimate(mean, drawn, margin)


def _agreement_margin(count: int) -> float:
    """Return how far a share may be from 0 or 1 although all ``count`` items agree: Wilson's interval (1927)."""
    squared = _NORMAL_QUANTILE**2
    return squared / (count + squared)


def linearised_estimate(
    value: float, influences: Mapping[str, Float[np.ndarray, " n"]], *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Estimate a statistic from its value and, per role, how it moves with each item's weight.

    To first order a resampled set's statistic is the value plus the mean of ``count - 1`` times influence. That spares
    computing the statistic anew for each replicate, and is free of the bias that repeated items give to some of them.
    The influences of one role sum to zero.
    """
    drawn = np.full(replicates, value, dtype=np.float64)
    for role, influence in influences.items():
        for replicate in range(replicates):
            counts = resampling_counts(len(influence), replicate, role=role, seed=seed)
            drawn[replicate] += counts @ influence / len(influence)
    return Estimate(float(value), drawn)


@dataclass(frozen=True)
class Comparison:
    """What changes from a baseline to another arm, with 95 % bootstrap intervals."""

    baseline: float
    other: float
    higher_is_better: bool
    difference: float
    """``other - baseline``."""
    difference_interval: tuple[float, float]
    relative_change: float | None
    """``other / baseline - 1``; None where the baseline is not safely above zero."""
    relative_interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` when the interval of the difference excludes zero, else ``"undecided"``."""
        low, high = self.difference_interval
        if low <= 0 <= high:
            return "undecided"
        return "better" if (low > 0) == self.higher_is_better else "worse"

    def to_dict(self) -> dict[str, object]:
        """Return every field and the verdict as plain JSON values."""
        return {
            "baseline": self.baseline,
            "other": self.other,
            "higher_is_better": self.higher_is_better,
            "difference": self.difference,
            "difference_interval": list(self.difference_interval),
            "relative_change": self.relative_change,
            "relative_interval": None if self.relative_interval is None else list(self.relative_interval),
            "verdict": self.verdict,
        }


def compare(baseline: Estimate, other: Estimate, higher_is_better: bool) -> Comparison:
    """Compare two arms measured with the same number of replicates.

    The intervals are the 2.5 and 97.5 percentiles, over paired replicates, of the difference and of the relative
    change, after each arm's replicates have been shifted so that their median is its point estimate
    (:attr:`Estimate.centred`); they are no narrower than the arms' margins, combined as Newcombe (1998) does. They
    cover the sampling of images and of test items, not of training runs: with one trained model per arm, they say
    nothing of how another training seed would have fared.

    Raises:
        ValueError: the arms have different numbers of replicates.
    """
    if len(baseline.replicates) != len(other.replicates):
        raise ValueError(f"{len(baseline.replicates)} replicates cannot be paired with {len(other.replicates)}")
    before, after = baseline.centred, other.centred
    comparable = baseline.value > 0 and bool((before > 0).all())
    difference, ratio = other.value - baseline.value, other.value / baseline.value if comparable else 0.0
    return Comparison(
        baseline=float(baseline.value),
        other=float(other.value),
        higher_is_better=higher_is_better,
        difference=float(difference),
        difference_interval=_widened(after - before, difference, baseline.margin, other.margin),
        relative_change=float(ratio - 1) if comparable else None,
        relative_interval=_widened(
            after / before - 1,
            ratio - 1,
            (ratio * baseline.margin[0] / baseline.value, ratio * baseline.margin[1] / baseline.value),
            (other.margin[0] / baseline.value, other.margin[1] / baseline.value),
        )
        if comparable
        else None,
    )


def _widened(
    replicates: np.ndarray, change: float, baseline: tuple[float, float], other: tuple[float, float]
) -> tuple[float, float]:
    """Return the interval of a change from a baseline, no narrower than the margins of both."""
    below, above = float(np.hypot(other[0], baseline[1])), float(np.hypot(other[1], baseline[0]))
    return _at_least(_percentiles(replicates, LEVEL), float(change), (below, above))
