"""How a share of covered points moves with each ball's centre, by leaving the centre out.

Without an item its ball is gone, so that points in no other ball are lost; and the balls that reached to it reach to
the next neighbour, which keeps some of these points and gains others. Only points in no ball or in one matter. A change
counted over few points is partly their noise, which their own resampling has in it already: it is subtracted from the
sum of squares (Efron and Stein, 1981, show that leaving one out is otherwise too pessimistic).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reals.evaluation import comparing

DECIDED = 2
"""In how many balls a point must be for it not to matter in how many more it is."""

# Balls remembered for each point that would reach it; points in so many are next to outliers.
_REMEMBERED = 16


@dataclass(frozen=True, eq=False)
class Pairs:
    """Points and balls of a tile, numbered from its first ones on; each point is within the ball's outer reach."""

    points: Int[Tensor, " pairs"]
    balls: Int[Tensor, " pairs"]
    inside: Bool[Tensor, " pairs"]
    """Whether it is within the ball itself."""

    def of(self, which: Bool[Tensor, " pairs"] | Int[Tensor, " some"]) -> "Pairs":
        """Return some of them."""
        return Pairs(self.points[which], self.balls[which], self.inside[which])

    def turned(self) -> "Pairs":
        """Return the same with balls in the role of points."""
        return Pairs(self.balls, self.points, self.inside)


@dataclass(eq=False)
class Removals:
    """Collects, tile by tile, which points depend on which balls; memory is a few numbers a point."""

    counts: Int[Tensor, " points"]
    """In how many balls each point lies; exact below ``DECIDED``."""
    _only: Int[Tensor, " points"]
    _remembered: Int[Tensor, " points"]
    _pairs: list[tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]] = field(default_factory=list)

    @classmethod
    def of(cls, points: int, device: torch.device) -> "Removals":
        """Start with points in no ball."""
        counts, only, remembered = torch.zeros((3, points), dtype=torch.int32, device=device)
        return cls(counts, only, remembered)

    def add(self, points: slice, balls: slice, pairs: Pairs, *, remember: bool = True) -> None:
        """Take in a tile.

        Args:
            points: which.
            balls: which.
            pairs: which of these points are near which of these balls.
            remember: whether balls depend on neighbours, so that it matters which points they would reach.
        """
        found = torch.bincount(pairs.points[pairs.inside], minlength=points.stop - points.start).int()
        self.counts[points] += found
        counts = self.counts[points]
        chosen = pairs.of(pairs.inside & ((found == 1) & (counts == 1))[pairs.points])
        self._only[chosen.points + points.start] = (chosen.balls + balls.start).int()
        if not remember:
            return
        matters = (counts < DECIDED) & (self._remembered[points] < _REMEMBERED)
        reached = _first(pairs.of(matters[pairs.points]))
        self._remembered[points] += torch.bincount(reached.points, minlength=len(counts)).int()
        self._pairs.append((reached.points + points.start, reached.balls + balls.start))

    def influence(
        self, balls: int, neighbours: Int[np.ndarray, "balls k"] | None = None
    ) -> Float[np.ndarray, " balls"]:
        """Return how the share of points in some ball moves with the weight of each ball's centre.

        Args:
            balls: how many there are.
            neighbours: the items that each ball reaches to, by number; None for balls that do not depend on them.
        """
        counts, only = self.counts.cpu().numpy(), self._only.cpu().numpy()
        saved = np.zeros(len(counts), dtype=bool)
        gained = np.zeros(balls)
        if neighbours is not None and self._pairs:
            points, items = self._kept_by_reach(neighbours)
            gained += np.bincount(items[counts[points] == 0], minlength=balls)
            saved[points[(counts[points] == 1) & (only[points] == items)]] = True
        lost = np.bincount(only[(counts == 1) & ~saved], minlength=balls)
        size = len(counts)
        change = (lost - gained) / size
        noise = ((lost + gained) / size**2 - np.square(change) / size).sum() * size / max(size - 1, 1)
        return balls * without_noise(change, float(noise))

    def _kept_by_reach(self, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of a point and an item without which some ball would reach the point; each pair once."""
        points, balls = (torch.cat(side) for side in zip(*self._pairs, strict=True))
        counts = self.counts[points]
        matters = (counts == 0) | ((counts == 1) & (self._only[points] != balls))
        points, balls = points[matters].cpu().numpy(), balls[matters].cpu().numpy()
        items = neighbours[balls]
        # A set's own item may be among its nearest ones: without it the ball is gone.
        other = items != balls[:, None]
        together = np.unique((points[:, None] * len(neighbours) + items)[other])
        return together // len(neighbours), together % len(neighbours)


def _first(pairs: Pairs) -> Pairs:
    """Return at most ``_REMEMBERED`` pairs of each point."""
    counts = torch.bincount(pairs.points)
    if len(counts) == 0 or int(counts.max()) <= _REMEMBERED:
        return pairs
    order = pairs.points.argsort(stable=True)
    return pairs.of(order[comparing.ranks(pairs.points[order], counts) < _REMEMBERED])


def without_noise(change: Float[np.ndarray, " n"], noise: float) -> Float[np.ndarray, " n"]:
    """Return changes around their mean, shrunk so that the sum of squares loses ``noise``."""
    centred = change - change.mean()
    total = float(np.square(centred).sum())
    return centred * max(0.0, 1.0 - noise / total) ** 0.5 if total > 0 else centred
