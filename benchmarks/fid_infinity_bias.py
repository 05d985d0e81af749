"""How much of FID's bias ``fid_infinity`` leaves, in simulations of a flat spectrum.

``OMP_NUM_THREADS=1 python benchmarks/fid_infinity_bias.py`` prints JSON after about a minute. Samples are normal with
independent features of equal variance; the reference's statistics and the true distance are exact. ``left`` is the mean
error of the extrapolated distance in per cent of the plain distance's, negative where it is too low; ``left_original``
the same of Chong and Forsyth's line, through evenly spaced numbers of samples from 5000 (for 2048 dimensions) to all.
``±`` is a standard error.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from jaxtyping import Float

from reals.evaluation.bootstrap import Estimate
from reals.evaluation.extrapolation import SUBSETS, extrapolated_distance
from reals.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from reals.models.inception import POOL_DIMENSION
from reals.runtime.progress import say
from reals.runtime.seed import derive_seed

_SMALLEST_OF_ORIGINAL = 5000 / POOL_DIMENSION
"""Samples a dimension."""


@dataclass(frozen=True)
class Arguments:
    """What to simulate."""

    per_dimension: tuple[float, ...] = (4.8, 10.0, 15.0, 25.0)
    """Samples a dimension; at least 4.8."""
    dimension: int = 64
    """Number of features."""
    trials: int = 400
    """Sets drawn for each number of samples."""
    scale: float = 1.0
    """Standard deviation of the samples' features; the reference's is 1."""
    shift: float = 0.0
    """Mean of the samples' features; the reference's is 0."""


def simulate(per_dimension: float, arguments: Arguments) -> dict[str, float]:
    """Return the bias of the plain distance, and in per cent of it what each line leaves."""
    dimension = arguments.dimension
    reference = GaussianStatistics(np.zeros(dimension), np.eye(dimension), None)
    truth = dimension * ((arguments.scale - 1) ** 2 + arguments.shift**2)
    count = math.ceil(per_dimension * dimension)
    errors = np.empty((arguments.trials, 3))
    for trial in range(arguments.trials):
        generator = np.random.default_rng(derive_seed("fid_infinity bias", dimension, count, trial))
        samples = arguments.scale * generator.normal(size=(count, dimension)) + arguments.shift
        plain = frechet_distance(reference, gaussian_statistics(samples))
        ours = extrapolated_distance(reference, samples, Estimate(plain, np.full(2, plain))).value
        errors[trial] = plain, ours, original(reference, samples, generator)
    plain, ours, theirs = (errors - truth).T
    return {
        "samples": count,
        "bias": float(plain.mean()),
        "bias ±": float(plain.std(ddof=1) / len(plain) ** 0.5),
        **_left("left", ours, plain),
        **_left("left_original", theirs, plain),
    }


def original(reference: GaussianStatistics, samples: Float[np.ndarray, "n d"], generator: np.random.Generator) -> float:
    """Return the intercept of a line through subsets as Chong and Forsyth (2020) take them."""
    count, dimension = samples.shape
    sizes = np.linspace(_SMALLEST_OF_ORIGINAL * dimension, count, SUBSETS).astype(np.int64)
    subsets = (samples[generator.permutation(count)[:size]] for size in sizes)
    distances = [frechet_distance(reference, gaussian_statistics(subset)) for subset in subsets]
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def _left(name: str, errors: np.ndarray, plain: np.ndarray) -> dict[str, float]:
    share = errors.mean() / plain.mean()
    # Both come from the same sets, so the error is of the ratio of two means that go together.
    spread = (errors - share * plain).std(ddof=1) / len(plain) ** 0.5 / plain.mean()
    return {name: 100 * float(share), f"{name} ±": 100 * float(spread)}


def main() -> None:
    """Simulate one number of samples after the other."""
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(1)
    found = {}
    for number in arguments.per_dimension:
        found[f"{number:g}"] = simulate(number, arguments)
        say(f"{number:g} samples a dimension: {arguments.trials} trials")
    samples = f"{arguments.dimension} features of standard deviation {arguments.scale:g} and mean {arguments.shift:g}"
    result = {
        "what": f"per cent of the Fréchet distance's bias that extrapolation leaves; samples of {samples}",
        "trials": arguments.trials,
        "by_samples_a_dimension": found,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
