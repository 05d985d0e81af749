"""Precision and recall with the ADM evaluator's rounding: distances in float16, as its GPU computes them.

It computes blocks of 10,000 x 10,000 distances ``|u|² - 2uv + |v|²`` in float16, clamped at zero, and again in float32
where anything in a block overflowed. At ``|x|²`` around 400 a float16 step is 0.25, so ties are common. Sums inside a
dot product are kept in float32 here; what a given GPU does may differ, so results are close to ADM's, not equal.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from reals.evaluation.float32 import true_float32
from reals.evaluation.manifold import Advance
from reals.evaluation.removal import Removals
from reals.evaluation.slices import slices
from reals.runtime import interrupt

_BLOCK = 10_000
_SIDE = 2048
# Below it no intermediate result reaches float16's largest number, 65504.
_SAFE = 60_000.0


def adm_membership(
    reference: Float[np.ndarray, "n d"],
    samples: Float[np.ndarray, "m d"],
    neighbours: int,
    device: torch.device | str,
    advance: Advance,
) -> tuple[Removals, Int[Tensor, "n names"], Removals, Int[Tensor, "m names"]]:
    """Return in which of the reference's balls samples lie, and the items these balls reach to; and the reverse."""
    place = torch.device(device)
    reference_radii, reference_outer, reference_names = _radii(reference, neighbours, place, advance)
    sample_radii, sample_outer, sample_names = _radii(samples, neighbours, place, advance)
    recall, precision = Removals.of(len(reference), place), Removals.of(len(samples), place)
    for rows, columns, distances in _distances(reference, samples, place):
        recall.add(rows, columns, distances <= sample_radii[columns], (distances, sample_outer[columns]))
        inside = (distances <= reference_radii[rows, None]).T
        precision.add(columns, rows, inside, (distances.T, reference_outer[rows]))
        if columns.stop == len(samples):
            advance(rows.stop - rows.start)
    return precision, reference_names, recall, sample_names


def _radii(
    items: np.ndarray, neighbours: int, device: torch.device, advance: Advance
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Int[Tensor, "n names"]]:
    """Return each item's ``neighbours + 1``-th smallest distance, the one to itself included; the next; and to whom."""
    kept = min(neighbours + 2, len(items))
    nearest = torch.full((len(items), kept), torch.inf, device=device)
    names = torch.zeros((len(items), kept), dtype=torch.int64, device=device)
    for rows, columns, distances in _distances(items, items, device):
        together = torch.cat([nearest[rows], distances], dim=1)
        nearest[rows], order = together.topk(kept, dim=1, largest=False)
        known = names[rows].gather(1, order.clamp(max=kept - 1))
        names[rows] = torch.where(order < kept, known, order - kept + columns.start)
        if columns.stop == len(items):
            advance(rows.stop - rows.start)
    return nearest[:, neighbours], nearest[:, kept - 1], names[:, : neighbours + 1]


def _distances(u: np.ndarray, v: np.ndarray, device: torch.device) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield tiles of distances, float32 numbers that float16 can hold; of blocks that overflow, in float32."""
    for rows in slices(len(u), _BLOCK):
        for columns in slices(len(v), _BLOCK):
            half = _stays_finite(u[rows], v[columns], device)
            for some in slices(rows.stop, _SIDE, rows.start):
                for others in slices(columns.stop, _SIDE, columns.start):
                    interrupt.stop_if_requested("while comparing features")
                    yield some, others, _tile(_on(u[some], device), _on(v[others], device), half)


def _stays_finite(u: np.ndarray, v: np.ndarray, device: torch.device) -> bool:
    if float(np.linalg.norm(u, axis=1).max() + np.linalg.norm(v, axis=1).max()) ** 2 < _SAFE:
        return True
    return all(
        bool(_tile(_on(u[some], device), _on(v[others], device), True).isfinite().all())
        for some in slices(len(u), _SIDE)
        for others in slices(len(v), _SIDE)
    )


def _on(items: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(items.astype(np.float32)).to(device)


def _tile(u: Tensor, v: Tensor, half: bool) -> Tensor:
    with true_float32():
        if not half:
            norms = u.square().sum(dim=1)[:, None], v.square().sum(dim=1)
            return (norms[0] - 2.0 * (u @ v.T) + norms[1]).clamp_(min=0.0)
        u, v = u.half(), v.half()
        norms = (u * u).float().sum(dim=1).half()[:, None], (v * v).float().sum(dim=1).half()
        products = (u.float() @ v.float().T).half()
        return (norms[0] - 2.0 * products + norms[1]).clamp_(min=0.0).float()
