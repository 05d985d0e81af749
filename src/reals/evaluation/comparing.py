"""Comparisons of tiles of distances, and what is found where they are true.

On a CPU NumPy does these: its kernels for truth values are two to six times as fast as torch's.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def at_most(distances: Float[Tensor, "r c"], bounds: Tensor) -> Bool[Tensor, "r c"]:
    """Return where ``distances`` are at most ``bounds``, which broadcast."""
    if distances.device.type != "cpu":
        return distances <= bounds
    return torch.from_numpy(np.less_equal(distances.numpy(), bounds.numpy()))


def below(distances: Float[Tensor, "r c"], bounds: Tensor) -> Bool[Tensor, "r c"]:
    """Return where ``distances`` are less than ``bounds``, which broadcast."""
    if distances.device.type != "cpu":
        return distances < bounds
    return torch.from_numpy(np.less(distances.numpy(), bounds.numpy()))


def places(where: Bool[Tensor, "r c"]) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Return rows and columns of what is true, in the order of memory."""
    if where.device.type != "cpu":
        rows, columns = where.nonzero(as_tuple=True)
        return rows, columns
    # Of a transposed tile the memory's own order.
    turned = not where.is_contiguous()
    flat = np.flatnonzero((where.T if turned else where).numpy())
    one, other = (torch.from_numpy(part) for part in np.divmod(flat, where.shape[0 if turned else 1]))
    return (other, one) if turned else (one, other)


def ranks(groups: Int[Tensor, " n"], counts: Int[Tensor, " groups"]) -> Int[Tensor, " n"]:
    """Return the place of each element in its own group, from 0 on; ``groups`` is sorted, ``counts`` says how large."""
    return torch.arange(len(groups), device=groups.device) - (counts.cumsum(0) - counts)[groups]


def within_bounds(
    distances: Float[Tensor, " p"], bounds: Float[Tensor, "b p"], errors: Float[Tensor, " p"] | float
) -> tuple[Bool[Tensor, "b p"], Bool[Tensor, " p"]]:
    """Return which distances are within each of their bounds for sure, and which ``errors`` leave open at any."""
    within = distances <= bounds - errors
    return within, (~within & (distances <= bounds + errors)).any(dim=0)
