"""How often the intervals and verdicts of ``reals evaluate --more True --baseline`` are right, in simulations.

``OMP_NUM_THREADS=1 python benchmarks/interval_cover.py [--trials N] [--row NAME ...] [--fixed]`` prints JSON. Without
``--row`` it takes a few minutes on one core; ``--row all`` simulates every row of decision 10.

A trial draws features of a reference and of two sample sets of one distribution, and measures both sets as arms of one
evaluation. ``cover`` is how often, in per cent, the first set's 95 % interval holds the mean over all sets drawn;
``false`` is how often the verdict of the two is "better" or "worse", which should be 5 %. ``±`` is a standard error.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from jaxtyping import Float

from reals.evaluation.bootstrap import REPLICATES, Estimate, compare, mean_estimate
from reals.evaluation.extras import more_estimates
from reals.evaluation.measures import Judged, Settings, judge, measure
from reals.evaluation.metric_kinds import split_name
from reals.evaluation.precision_recall import Arithmetic, density_coverage, precision_recall
from reals.runtime.progress import say
from reals.runtime.seed import derive_seed

ROLES = ("reference", "samples", "baseline")


@dataclass(frozen=True)
class Row:
    """Distributions and numbers of features."""

    dimension: int
    reference: int
    """Items of the reference."""
    samples: int
    """Items of each set of samples."""
    scale: float = 1.0
    """Standard deviation of the samples' features; the reference's is 1."""
    shift: float = 0.0
    """Mean of the samples' features; the reference's is 0."""
    freedom: int | None = None
    """Degrees of freedom of Student's t in all dimensions at once; None for normal features."""
    arithmetic: Arithmetic = "exact"
    """Of precision and recall."""

    def draw(self, role: str, trial: int) -> Float[np.ndarray, "n d"]:
        """Return a set's features in float32; rows of equal counts see the same random numbers."""
        generator = np.random.default_rng(derive_seed("interval cover", role, trial))
        count = self.reference if role == "reference" else self.samples
        features = generator.normal(size=(count, self.dimension))
        if self.freedom is not None:
            features /= np.sqrt(generator.chisquare(self.freedom, size=(count, 1)) / self.freedom)
        if role != "reference":
            features = self.scale * features + self.shift
        return features.astype(np.float32)


ROWS = {
    "64-1000-1000": Row(64, 1000, 1000),
    "64-1000-1000-heavy-tails": Row(64, 1000, 1000, freedom=5),
    "16-1000-1000": Row(16, 1000, 1000),
    "8-500-500-shifted": Row(8, 500, 500, shift=0.1),
    "64-1000-1000-adm_fp16": Row(64, 1000, 1000, arithmetic="adm_fp16"),
    "32-500-500-shifted": Row(32, 500, 500, shift=0.1),
    "16-500-500-scaled": Row(16, 500, 500, scale=0.8),
    "8-2000-500-shifted": Row(8, 2000, 500, shift=0.1),
    "64-500-2000-scaled": Row(64, 500, 2000, scale=0.9, shift=0.05),
    "32-2000-2000-scaled": Row(32, 2000, 2000, scale=0.9, shift=0.05),
    "64-1000-5000": Row(64, 1000, 5000),
    "64-3000-3000": Row(64, 3000, 3000),
}
"""By dimensions, items of the reference, items of the samples and what the samples are, unless equal to it."""


@dataclass(frozen=True)
class Arguments:
    """What to simulate."""

    trials: int = 100
    """Of each row."""
    row: tuple[str, ...] = ("64-1000-1000", "8-500-500-shifted", "32-500-500-shifted", "16-500-500-scaled")
    """Names of rows, or "all"."""
    fixed: bool = False
    """Also the four shares with both manifolds fixed: the verdicts are resampled and nothing else."""


class DrawnFeatures:
    """Stands for the network behind features that are drawn, not computed from images."""

    name, fingerprint, resize = "drawn", "none", "none"

    def __init__(self, dimension: int):
        self.dimension = dimension

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Refuse: there are no images."""
        raise NotImplementedError("features are drawn")


def measured(row: Row, trial: int, settings: Settings, fixed: bool = False) -> dict[str, dict[str, Estimate]]:
    """Return the estimates of ``"samples"`` and ``"baseline"`` that one evaluation has, by metric without network."""
    network = DrawnFeatures(row.dimension)
    reference, *arms = (judge(row.draw(role, trial), network) for role in ROLES)
    found = {}
    for role, arm in zip(ROLES[1:], arms, strict=True):
        estimates = measure(reference, arm, network, settings)
        estimates |= more_estimates(reference, arm, estimates, settings)[0]
        found[role] = {name.removesuffix(arm.suffix): estimate for name, estimate in estimates.items()}
        if fixed:
            found[role] |= with_fixed_manifolds(reference, arm, settings)
    return found


def with_fixed_manifolds(reference: Judged, samples: Judged, settings: Settings) -> dict[str, Estimate]:
    """Return the four shares, of which only the verdicts are resampled."""
    manifolds = precision_recall(reference.features, samples.features, arithmetic=settings.arithmetic)
    balls = density_coverage(reference.features, samples.features)
    verdicts = {
        "precision": (manifolds.sample_inside, "samples"),
        "recall": (manifolds.reference_inside, settings.reference_role),
        "density": (balls.balls / balls.neighbours, "samples"),
        "coverage": (balls.covered, settings.reference_role),
    }
    return {
        f"{name}/fixed": mean_estimate(values, replicates=settings.replicates, role=role, seed=settings.seed)
        for name, (values, role) in verdicts.items()
    }


def simulate(
    row: Row, trials: int, *, replicates: int = REPLICATES, fixed: bool = False
) -> dict[str, dict[str, float]]:
    """Return by metric the mean over all sets drawn, and ``cover`` and ``false`` in per cent with standard errors."""
    settings = Settings(replicates=replicates, arithmetic=row.arithmetic)
    drawn = [measured(row, trial, settings, fixed) for trial in range(trials)]
    rates: dict[str, dict[str, float]] = {}
    for name in drawn[0]["samples"]:
        pairs = [(arms["baseline"][name], arms["samples"][name]) for arms in drawn]
        truth = float(np.mean([estimate.value for pair in pairs for estimate in pair]))
        intervals = [samples.interval() for _, samples in pairs]
        higher = split_name(name)[0].higher_is_better
        rates[name] = {
            "mean": truth,
            **_rate("cover", [low <= truth <= high for low, high in intervals]),
            **_rate("false", [compare(*pair, higher).verdict != "undecided" for pair in pairs]),
        }
    return rates


def _rate(name: str, flags: Sequence[bool]) -> dict[str, float]:
    count, hits = len(flags), sum(flags)
    # Two successes and two failures more (Agresti and Coull, 1998): no error of zero where all trials agree.
    share = (hits + 2) / (count + 4)
    return {name: 100 * hits / count, f"{name} ±": 100 * (share * (1 - share) / (count + 4)) ** 0.5}


def main() -> None:
    """Simulate row by row."""
    arguments = tyro.cli(Arguments, description=__doc__)
    names = tuple(ROWS) if arguments.row == ("all",) else arguments.row
    if unknown := [name for name in names if name not in ROWS]:
        sys.exit(f"--row {' '.join(unknown)}: not among {', '.join(ROWS)}")
    torch.set_num_threads(1)
    rows = {}
    for name in names:
        rows[name] = simulate(ROWS[name], arguments.trials, fixed=arguments.fixed)
        say(f"{name}: {arguments.trials} trials")
    result = {
        "what": "per cent of 95 % intervals that hold the mean over fresh sets, and of false verdicts",
        "trials": arguments.trials,
        "rows": rows,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
