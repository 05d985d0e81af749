"""Coarse products on any processor: operands rounded to bfloat16 beforehand, as some processors do on the way."""

from dataclasses import replace

import numpy as np
import pytest

from reals.evaluation import precision_recall
from reals.evaluation.distances import Placed, Space


def round_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make coarse spaces round what they multiply, and comparisons of sets of any size choose them."""
    place = Space.place

    def rounded(space: Space, items: np.ndarray) -> Placed:
        placed = place(space, items)
        return replace(placed, items=placed.items.bfloat16().float()) if space.coarse else placed

    monkeypatch.setattr(Space, "place", rounded)
    monkeypatch.setattr(precision_recall, "coarse_pays", lambda *sets: True)
