"""Points and directions as three arrays, one per coordinate, so that arithmetic runs over contiguous memory."""

from typing import NamedTuple

import numpy as np


def over_frame(values: np.ndarray) -> np.ndarray:
    """View one value per scene [k] as [k, 1, 1], to stand beside a value per pixel."""
    return values[:, None, None]


class Vector(NamedTuple):
    """Coordinates of many points or directions; the three arrays have shapes that broadcast together."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> "Vector":
        """Split [n, 3] into coordinates."""
        return cls(rows[:, 0], rows[:, 1], rows[:, 2])

    def dot(self, other: "Vector") -> np.ndarray:
        """Return inner products."""
        return self.x * other.x + self.y * other.y + self.z * other.z

    def plus(self, other: "Vector") -> "Vector":
        """Return the sum."""
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def scaled(self, factor: np.ndarray | float) -> "Vector":
        """Return every coordinate times ``factor``."""
        return Vector(self.x * factor, self.y * factor, self.z * factor)

    def towards(self, direction: "Vector", distance: np.ndarray | float) -> "Vector":
        """Return the points ``distance`` along ``direction``."""
        return Vector(self.x + distance * direction.x, self.y + distance * direction.y, self.z + distance * direction.z)

    def at(self, chosen: np.ndarray) -> "Vector":
        """Return the entries ``chosen`` of each coordinate, flattened first where it has several axes."""
        return Vector(self.x.reshape(-1)[chosen], self.y.reshape(-1)[chosen], self.z.reshape(-1)[chosen])

    def over_frame(self) -> "Vector":
        """View one vector per scene as [k, 1, 1] coordinates."""
        return Vector(over_frame(self.x), over_frame(self.y), over_frame(self.z))
