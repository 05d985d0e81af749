"""Whether samples are copies: their nearest training images, and how near those lie to each other.

A sample counts as copied if it is nearer to its nearest training image than that image is to any other training image
(Alaa et al., 2102.08921, whose authenticity is one minus the share of such samples).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from reals.evaluation.distances import Space, coarse_pays, tiles
from reals.evaluation.neighbours import Candidates, nearest_neighbours
from reals.evaluation.scale import ordinary_scale
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
        nearest = Candidates.none(len(samples), min(_CANDIDATES, len(training)), space)
        for tile in tiles(samples, training, space, shown.advance):
            nearest.offer(tile.rows, tile.distances, tile.columns, tile.error)
    candidates = nearest.indices.cpu().numpy()
    index, squared = np.empty(len(samples), np.int64), np.empty(len(samples))
    for row, known in enumerate(candidates):
        exact = np.square(training[known].astype(np.float64) - samples[row].astype(np.float64)).sum(axis=1)
        index[row], squared[row] = known[exact.argmin()], exact.min()
    own = radii[index]
    ratio = np.divide(squared, own, out=np.where(squared > 0, np.inf, 0.0), where=own > 0)
    return NearestTraining(index, ratio)
