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

from reals.evaluation.distances import Advance, Tile
from reals.evaluation.float32 import true_float32
from reals.evaluation.pairs import Balls, near_pairs
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
) -> tuple[Removals, Int[np.ndarray, "n names"], Removals, Int[np.ndarray, "m names"]]:
    """Return in which of the reference's balls samples lie, and the items these balls reach to; and the reverse."""
    place = torch.device(device)
    reference_balls, sample_balls = (_balls(items, neighbours, place, advance) for items in (reference, samples))
    recall, precision = Removals.of(len(reference), place), Removals.of(len(samples), place)
    for rows, columns, distances in _distances(reference, samples, place):
        tile = Tile(rows, columns, distances, error=0.0)
        recall.add(rows, columns, near_pairs(tile, sample_balls, around_rows=False))
        precision.add(columns, rows, near_pairs(tile, reference_balls, around_rows=True))
        if columns.stop == len(samples):
            advance(rows.stop - rows.start)
    return precision, reference_balls.names, recall, sample_balls.names


def _balls(items: np.ndarray, neighbours: int, device: torch.device, advance: Advance) -> Balls:
    """Return balls that reach to each item's ``neighbours + 1``-th smallest distance, the one to itself included."""
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
    return Balls(nearest[:, neighbours], nearest[:, kept - 1], names[:, : neighbours + 1].cpu().numpy())


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
