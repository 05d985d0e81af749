"""Ten solids as signed distance functions, how they may lie on a floor, and the points their hulls rest on.

A distance function takes local coordinates (y is the axis of revolution or height) and a proportion in [-1, 1] that
stretches the solid. Outside it returns at most the true distance, so that sphere tracing (Hart, "Sphere tracing",
1996) never steps through a surface; inside it is negative. Only exactly rounded operations (+ - * / sqrt min max abs)
are used, so that a value never depends on how many others are computed beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Hull = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_RIM = np.stack([np.cos(np.arange(48) * math.tau / 48), np.sin(np.arange(48) * math.tau / 48)], axis=1)
_ROUNDING = 0.05
_STAR_INNER = 0.46
_STAR_HALF_DEPTH = 0.17


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A family of orientations; angles are drawn uniformly, in degrees, and applied as spin, tilt, yaw."""

    tilt: tuple[float, float]
    """Rotation about the horizontal axis of the picture plane."""
    yaw: tuple[float, float] = (-180.0, 180.0)
    """Rotation about the vertical, after the tilt."""
    spin: tuple[float, float] = (-180.0, 180.0)
    """Rotation about the solid's own axis, before the tilt."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A class of solid."""

    name: str
    distance: Distance
    hull: Hull
    """Proportions [n] to (points [n, m, 3] whose convex hull, grown by the radius [n], is the solid's hull, radius)."""
    poses: tuple[Pose, ...]
    """Equally likely; repeat one to make it likelier."""
    convex: bool = True
    """A convex solid casts no shadow on itself."""


def _outside(*excess: np.ndarray) -> np.ndarray:
    """Distance to a box from how far each coordinate exceeds it."""
    squares = sum(np.square(np.maximum(e, 0.0)) for e in excess)
    largest = excess[0]
    for e in excess[1:]:
        largest = np.maximum(largest, e)
    return np.sqrt(squares) + np.minimum(largest, 0.0)


def _points(rows: np.ndarray, *columns: np.ndarray | float) -> np.ndarray:
    """Stack x, y, z, each broadcastable to [n, m], into [n, m, 3]."""
    return np.stack(np.broadcast_arrays(*columns, rows[:, None] * 0.0)[:3], axis=-1)


def _signs() -> np.ndarray:
    return np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


def _sphere(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y + z * z) - (0.8 + 0.0 * proportion)


def _sphere_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _points(proportion, np.zeros((1, 1)), 0.0, 0.0), np.full_like(proportion, 0.8)


def _cube(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    half = 0.57 + 0.02 * proportion
    return _outside(abs(x) - half, abs(y) - half, abs(z) - half) - _ROUNDING


def _cube_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = (0.57 + 0.02 * proportion)[:, None]
    return _points(proportion, *(half * s for s in _signs().T)), np.full_like(proportion, _ROUNDING)


def _cylinder(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    radius, half = 0.47 - 0.06 * proportion, 0.68 + 0.08 * proportion
    return _outside(np.sqrt(x * x + z * z) - radius, abs(y) - half) - _ROUNDING


def _cylinder_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    radius, half = (0.47 - 0.06 * proportion)[:, None], (0.68 + 0.08 * proportion)[:, None]
    rims = [_points(proportion, radius * _RIM[:, 0], side * half, radius * _RIM[:, 1]) for side in (-1.0, 1.0)]
    return np.concatenate(rims, axis=1), np.full_like(proportion, _ROUNDING)


def _cone(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    radius, half = 0.66 - 0.06 * proportion, 0.78 + 0.08 * proportion
    across = np.sqrt(x * x + z * z)
    # Nearest point of the slanted side, as a fraction of the way from the rim (radius, -half) to the apex (0, half).
    fraction = ((radius - across) * radius + (y + half) * 2.0 * half) / (radius * radius + 4.0 * half * half)
    fraction = np.clip(fraction, 0.0, 1.0)
    side_x, side_y = across - radius * (1.0 - fraction), y + half - 2.0 * half * fraction
    base_x, base_y = np.maximum(across - radius, 0.0), y + half
    nearest = np.minimum(side_x * side_x + side_y * side_y, base_x * base_x + base_y * base_y)
    beyond_side = (across - radius) * 2.0 * half + (y + half) * radius
    inside = (beyond_side < 0.0) & (base_y > 0.0)
    return np.sqrt(nearest) * np.where(inside, np.float32(-1.0), np.float32(1.0)) - 0.4 * _ROUNDING


def _cone_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    radius, half = (0.66 - 0.06 * proportion)[:, None], (0.78 + 0.08 * proportion)[:, None]
    rim = _points(proportion, radius * _RIM[:, 0], -half, radius * _RIM[:, 1])
    return np.concatenate([rim, _points(proportion, 0.0, half, 0.0)], axis=1), np.full_like(proportion, 0.4 * _ROUNDING)


def _torus(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    ring, tube = 0.66 + 0.02 * proportion, 0.25 - 0.05 * proportion
    across = np.sqrt(x * x + z * z) - ring
    return np.sqrt(across * across + y * y) - tube


def _torus_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ring = (0.66 + 0.02 * proportion)[:, None]
    return _points(proportion, ring * _RIM[:, 0], 0.0, ring * _RIM[:, 1]), 0.25 - 0.05 * proportion


def _pyramid(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    base, half = 0.70 - 0.03 * proportion, 0.58 + 0.10 * proportion
    slope = 1.0 / np.sqrt(base * base + 4.0 * half * half)
    side = (np.maximum(abs(x), abs(z)) * (2.0 * half) + (y - half) * base) * slope
    return np.maximum(side, -half - y)


def _pyramid_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    base, half = (0.70 - 0.03 * proportion)[:, None], (0.58 + 0.10 * proportion)[:, None]
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    foot = _points(proportion, base * corners[:, 0], -half, base * corners[:, 1])
    return np.concatenate([foot, _points(proportion, 0.0, half, 0.0)], axis=1), np.zeros_like(proportion)


def _capsule(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    radius, half = 0.40 - 0.05 * proportion, 0.58 + 0.06 * proportion
    along = y - np.clip(y, -half, half)
    return np.sqrt(x * x + along * along + z * z) - radius


def _capsule_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = (0.58 + 0.06 * proportion)[:, None]
    return _points(proportion, 0.0, half * np.array([[-1.0, 1.0]]), 0.0), 0.40 - 0.05 * proportion


def _octahedron(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    waist, height = 0.74 - 0.03 * proportion, 0.98 + 0.06 * proportion
    slope = 1.0 / np.sqrt(2.0 / (waist * waist) + 1.0 / (height * height))
    return ((abs(x) + abs(z)) / waist + abs(y) / height - 1.0) * slope


def _octahedron_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    waist, height = (0.74 - 0.03 * proportion)[:, None], (0.98 + 0.06 * proportion)[:, None]
    corners = np.concatenate([np.eye(3), -np.eye(3)])
    return _points(proportion, waist * corners[:, 0], height * corners[:, 1], waist * corners[:, 2]), 0.0 * proportion


def _star(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    # Fold the plane by the mirrors of the pentagon into the wedge between the upper tip and the notch beside it.
    x = abs(x)
    normal_x, normal_y = math.cos(math.radians(36.0)), -math.sin(math.radians(36.0))
    for _ in range(2):
        beyond = np.maximum(x * normal_x + y * normal_y, 0.0) * 2.0
        x, y = abs(x - beyond * normal_x), y - beyond * normal_y
    inner = _STAR_INNER + 0.04 * proportion
    notch_x, notch_y = inner * math.sin(math.radians(36.0)), inner * math.cos(math.radians(36.0))
    edge_y = notch_y - 0.95
    length = notch_x * notch_x + edge_y * edge_y
    fraction = np.clip((x * notch_x + (y - 0.95) * edge_y) / length, 0.0, 1.0)
    gap_x, gap_y = x - fraction * notch_x, y - 0.95 - fraction * edge_y
    side = np.where((y - 0.95) * notch_x - x * edge_y < 0.0, np.float32(-1.0), np.float32(1.0))
    outline = np.sqrt(gap_x * gap_x + gap_y * gap_y) * side
    return _outside(outline, abs(z) - _STAR_HALF_DEPTH) - 0.8 * _ROUNDING


def _star_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angles = np.radians(np.arange(5) * 72.0)
    x, y = np.tile(0.95 * np.sin(angles), 2), np.tile(0.95 * np.cos(angles), 2)
    z = np.repeat([-_STAR_HALF_DEPTH, _STAR_HALF_DEPTH], 5)
    return _points(proportion, x[None], y[None], z[None]), np.full_like(proportion, 0.8 * _ROUNDING)


def _cross(x: np.ndarray, y: np.ndarray, z: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    x, y, z = abs(x), abs(y), abs(z)
    low, high = np.minimum(x, y), np.maximum(x, y)
    # The arm along the largest coordinate is the nearest one.
    largest, middle, least = np.maximum(high, z), np.maximum(low, np.minimum(high, z)), np.minimum(low, z)
    arm, thickness = 0.85, 0.20 + 0.03 * proportion
    return _outside(largest - arm, middle - thickness, least - thickness) - 0.6 * _ROUNDING


def _cross_hull(proportion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    thickness = (0.20 + 0.03 * proportion)[:, None]
    ends = []
    for axis in range(3):
        scales: list[np.ndarray | float] = [thickness, thickness, thickness]
        scales[axis] = 0.85
        ends.append(_points(proportion, *(scale * s for scale, s in zip(scales, _signs().T[:, None], strict=True))))
    return np.concatenate(ends, axis=1), np.full_like(proportion, 0.6 * _ROUNDING)


_UPRIGHT = Pose(tilt=(-9.0, 9.0))
SHAPES: tuple[Shape, ...] = (
    Shape(name="sphere", distance=_sphere, hull=_sphere_hull, poses=(Pose(tilt=(-90.0, 90.0)),)),
    Shape(name="cube", distance=_cube, hull=_cube_hull, poses=(_UPRIGHT, Pose(tilt=(0.0, 0.0)))),
    Shape(
        name="cylinder",
        distance=_cylinder,
        hull=_cylinder_hull,
        poses=(_UPRIGHT, _UPRIGHT, Pose(tilt=(90.0, 90.0), yaw=(20.0, 160.0))),
    ),
    Shape(
        name="cone",
        distance=_cone,
        hull=_cone_hull,
        poses=(_UPRIGHT, _UPRIGHT, _UPRIGHT, Pose(tilt=(108.0, 116.0), yaw=(40.0, 140.0))),
    ),
    Shape(
        name="torus",
        distance=_torus,
        hull=_torus_hull,
        convex=False,
        poses=(Pose(tilt=(5.0, 16.0), yaw=(-30.0, 30.0)), Pose(tilt=(68.0, 92.0), yaw=(-50.0, 50.0))),
    ),
    Shape(name="pyramid", distance=_pyramid, hull=_pyramid_hull, poses=(_UPRIGHT, Pose(tilt=(0.0, 0.0)))),
    Shape(
        name="capsule",
        distance=_capsule,
        hull=_capsule_hull,
        poses=(Pose(tilt=(-35.0, 35.0)), Pose(tilt=(80.0, 90.0), yaw=(35.0, 145.0))),
    ),
    Shape(name="octahedron", distance=_octahedron, hull=_octahedron_hull, poses=(_UPRIGHT, Pose(tilt=(-18.0, 18.0)))),
    Shape(
        name="star",
        distance=_star,
        hull=_star_hull,
        convex=False,
        poses=(Pose(tilt=(-18.0, 12.0), yaw=(-42.0, 42.0), spin=(0.0, 0.0)),),
    ),
    Shape(
        name="cross",
        distance=_cross,
        hull=_cross_hull,
        convex=False,
        poses=(_UPRIGHT, Pose(tilt=(54.7, 54.7), spin=(45.0, 45.0))),
    ),
)
