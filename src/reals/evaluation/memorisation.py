"""Whether samples are copies: their nearest training images, and how near those lie to each other.

A sample counts as copied if it is nearer to its nearest training image than that image is to any other training image
(Alaa et al., 2102.08921, whose authenticity is one minus the share of such samples).
"""

from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from reals.evaluation.distances import Advance, Space, coarse_pays, exact_distances, tiles
from reals.evaluation.neighbours import PAIRS, Candidates, nearest_neighbours
from reals.evaluation.scale import ordinary_scale
from reals.evaluation.slices import slices
from reals.runtime import interrupt
from reals.runtime.progress import progress

# Candidates whose exact distances are compared.
_CANDIDATES = 4


@dataclass(frozen=True, eq=False)
class NearestTraining:
    """Of each sample."""

    index: Int[np.ndarray, " m"]
    """Of its nearest training image."""
    ratio: Float[np.ndarray, " m"]
    """Squared distance to it over that image's squared distance to its own nearest training image."""

    @property
    def copied(self) -> Bool[np.ndarray, " m"]:
        """Which samples are nearer to a training image than its own nearest neighbour is."""
        return self.ratio < 1.0

    def nearest_first(self, count: int) -> Int[np.ndarray, " k"]:
        """Return the samples that look most like copies."""
        return np.argsort(self.ratio, kind="stable")[:count]


def nearest_training(
    training: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], device: torch.device | str = "cpu"
) -> NearestTraining:
    """Search each sample's nearest training image.

    A training image that occurs twice has no distance to its nearest neighbour, so that nothing is nearer; a sample
    equal to it has the ratio 0 all the same.

    Raises:
        ValueError: there are fewer than two training images.
    """
    training, samples = ordinary_scale(training, samples)
    space = Space.around(training, device)
    with progress("Nearest training images", len(training) + len(samples), "rows") as shown:
        own_space = replace(space, coarse=coarse_pays(training, training, device))
        radii = nearest_neighbours(training, 1, own_space, shown.advance).radii
        index, squared = _nearest(training, samples, space, shown.advance)
    own = radii[index]
    ratio = np.divide(squared, own, out=np.where(squared > 0, np.inf, 0.0), where=own > 0)
    return NearestTraining(index, ratio)


def _nearest(
    training: np.ndarray, samples: np.ndarray, space: Space, advance: Advance
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Return each sample's nearest training image and the squared distance to it; of equally near ones any."""
    index, squared = np.empty(len(samples), np.int64), np.empty(len(samples))
    left, search = np.arange(len(samples)), space
    # Where many training images are alike, finer arithmetic is needed to tell which is nearest.
    while len(left) > 0 and search is not None:
        nearest = Candidates.none(len(left), min(_CANDIDATES, len(training)), search)
        for tile in tiles(samples if search is space else samples[left], training, search, advance):
            nearest.offer(tile.rows, tile.distances, tile.columns, tile.error)
        names, furthest = nearest.indices.cpu().numpy(), nearest.distances[:, -1].cpu().double().numpy()
        for row, known in zip(left, names, strict=True):
            index[row], squared[row] = _best(training, samples[row], known)
        sure = (names.shape[1] == len(training)) | (squared[left] == 0) | (squared[left] <= furthest - nearest.error)
        left, search, advance = left[~sure], search.finer(), _tell_nobody
    for row in left:
        interrupt.stop_if_requested("while comparing features")
        blocks = [
            _best(training, samples[row], np.arange(len(training))[some]) for some in slices(len(training), PAIRS)
        ]
        index[row], squared[row] = min(blocks, key=itemgetter(1))
    return index, squared


def _tell_nobody(rows: int) -> None:
    """Tell nobody: progress counts each sample once."""


def _best(training: np.ndarray, sample: np.ndarray, known: np.ndarray) -> tuple[int, float]:
    """Return which of some training images is nearest to a sample, and how near, exact for ties."""
    exact = exact_distances(torch.from_numpy(training[known]), torch.from_numpy(sample))
    nearest = int(exact.argmin())
    return int(known[nearest]), float(exact[nearest])
