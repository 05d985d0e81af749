"""Maximum mean discrepancies between two sets of features: KID's and CMMD's.

Unlike a Fréchet distance they assume no Gaussian, and unbiased ones do not depend on the number of images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reals.evaluation.distances import paired_blocks
from reals.evaluation.float32 import float64_device
from reals.runtime.progress import progress

Kernel = Callable[[Float[Tensor, "a d"], Float[Tensor, "b d"]], Float[Tensor, "a b"]]
"""Values for all pairs."""

# Of CMMD (Jayasumana et al., 2401.09603): of a Gaussian on features of length 1, and what the result is multiplied by.
_CMMD_SIGMA = 10.0
_CMMD_SCALE = 1000.0


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """A squared discrepancy, and how each item moves it."""

    value: float
    reference_influence: Float[np.ndarray, " n"]
    sample_influence: Float[np.ndarray, " m"]


def kernel_inception_distance(
    reference: Float[np.ndarray, "n d"],
    samples: Float[np.ndarray, "m d"],
    device: torch.device | str = "cpu",
    *,
    paired: bool = False,
) -> Discrepancy:
    """Return KID (Bińkowski et al., 2018): the unbiased squared discrepancy under ``(xy / d + 1)³``.

    Over all pairs, where other programs average 100 random subsets of 1000: the same expectation, less noise.
    ``paired`` sets (originals and their reconstructions, in the same order) are not independent, so an item and its
    own partner are left out as well: their likeness would lower the discrepancy by a multiple of one over the count.

    Raises:
        ValueError: a set has fewer than two items, or paired sets are not equally large.
    """

    def cubic(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    return _discrepancy(reference, samples, cubic, torch.device(device), unbiased=True, paired=paired)


def clip_discrepancy(
    reference: Float[np.ndarray, "n d"], samples: Float[np.ndarray, "m d"], device: torch.device | str = "cpu"
) -> Discrepancy:
    """Return CMMD (Jayasumana et al., 2401.09603) of CLIP embeddings: Gaussian kernel, σ 10, times 1000.

    As published each item is also paired with itself.

    Raises:
        ValueError: a set has fewer than two items.
    """

    def gaussian(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp((a @ b.T - 1.0) / _CMMD_SIGMA**2)

    unit = [items / np.linalg.norm(items, axis=1, keepdims=True) for items in (reference, samples)]
    found = _discrepancy(unit[0], unit[1], gaussian, torch.device(device), unbiased=False)
    return Discrepancy(
        _CMMD_SCALE * found.value, _CMMD_SCALE * found.reference_influence, _CMMD_SCALE * found.sample_influence
    )


def _discrepancy(
    reference: np.ndarray,
    samples: np.ndarray,
    kernel: Kernel,
    device: torch.device,
    *,
    unbiased: bool,
    paired: bool = False,
) -> Discrepancy:
    if paired and len(reference) != len(samples):
        raise ValueError(f"paired sets are equally large, found {len(reference)} and {len(samples)} items")
    if min(len(reference), len(samples)) < 2:
        raise ValueError(f"a kernel distance needs two items a set, found {len(reference)} and {len(samples)}")
    with progress("Kernel distance", 2 * len(reference) + len(samples), "rows") as shown:
        own = [_within(items, kernel, device, unbiased, shown.advance) for items in (reference, samples)]
        rows, columns = np.zeros(len(reference)), np.zeros(len(samples))
        for some, others, values in _tiles(reference, samples, kernel, device, shown.advance):
            if paired and some == others:
                values.fill_diagonal_(0.0)
            rows[some] += values.sum(dim=1).cpu().numpy()
            columns[others] += values.sum(dim=0).cpu().numpy()
    left_out = int(paired)
    across = [rows / (len(samples) - left_out), columns / (len(reference) - left_out)]
    value = own[0].mean() + own[1].mean() - 2.0 * across[0].mean()
    influences = [
        2.0 * ((inner - inner.mean()) - (outer - outer.mean())) for inner, outer in zip(own, across, strict=True)
    ]
    return Discrepancy(float(value), influences[0], influences[1])


def _within(
    items: np.ndarray, kernel: Kernel, device: torch.device, unbiased: bool, advance: Callable[[int], None]
) -> Float[np.ndarray, " n"]:
    """Return each item's mean kernel value with the others of its set, itself among them unless ``unbiased``."""
    sums = np.zeros(len(items))
    for some, others, values in _tiles(items, items, kernel, device, advance):
        if unbiased and some == others:
            values.fill_diagonal_(0.0)
        sums[some] += values.sum(dim=1).cpu().numpy()
    return sums / (len(items) - 1 if unbiased else len(items))


def _tiles(
    rows: np.ndarray, columns: np.ndarray, kernel: Kernel, device: torch.device, advance: Callable[[int], None]
) -> Iterator[tuple[slice, slice, Float[Tensor, "a b"]]]:
    def place(items: np.ndarray) -> Tensor:
        return torch.from_numpy(items.astype(np.float32)).to(device)

    for some, others, one, other in paired_blocks(rows, columns, place, advance):
        # Means of values that differ in the fourth digit need more than float32's sums.
        yield some, others, kernel(one, other).to(float64_device(device)).double()
