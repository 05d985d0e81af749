"""The geometry below rendered scenes, against answers found another way."""

import numpy as np
import pytest

from reals.data.scenes.parameters import Parameters, draw_parameters
from reals.data.scenes.renderer import render
from reals.data.scenes.room import room_light
from reals.data.scenes.shapes import SHAPES, Shape
from reals.data.scenes.tracing import FLOOR, camera_rays, meet_room

_EACH = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)


def _distance(shape: Shape, points: np.ndarray, proportion: np.ndarray) -> np.ndarray:
    """Evaluate a distance function at points [3, ...]."""
    return shape.distance(points[0], points[1], points[2], proportion)


def _cloud(count: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator, generator.uniform(-1.3, 1.3, (3, count)), generator.uniform(-1.0, 1.0, count)


@_EACH
def test_distance_never_overshoots(shape: Shape) -> None:
    """A function that changes no faster than the distance moved is at most the distance to its zeros."""
    generator, points, proportion = _cloud(20000)
    step = generator.normal(size=points.shape) * 0.1
    change = _distance(shape, points + step, proportion) - _distance(shape, points, proportion)
    assert (np.abs(change) <= np.linalg.norm(step, axis=0) * 1.0001 + 1e-9).all()


@_EACH
def test_hull_holds_the_solid_and_touches_it(shape: Shape) -> None:
    generator, points, proportion = _cloud(4000)
    corners, radius = shape.hull(proportion)
    # Each corner lies inside by the radius its hull is grown by.
    at_corners = _distance(shape, np.moveaxis(corners, -1, 0), proportion[:, None])
    np.testing.assert_allclose(at_corners, np.broadcast_to(-radius[:, None], at_corners.shape), atol=1e-6)
    inside = _distance(shape, points, proportion) < 0.0
    assert inside.sum() > 50
    direction = generator.normal(size=(4000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    reach = (corners * direction[:, None]).sum(axis=-1).max(axis=1) + radius
    assert ((points.T * direction).sum(axis=1)[inside] <= reach[inside] + 5e-3).all()


@_EACH
def test_convex_is_said_only_of_convex_solids(shape: Shape) -> None:
    """Secant steps rely on the distance to a convex solid being convex; the others must be marked."""
    generator, points, proportion = _cloud(20000)
    other = generator.uniform(-1.3, 1.3, points.shape)
    middle = _distance(shape, 0.5 * (points + other), proportion)
    ends = 0.5 * (_distance(shape, points, proportion) + _distance(shape, other, proportion))
    assert bool((middle <= ends + 1e-9).all()) == shape.convex


def test_objects_rest_on_the_floor() -> None:
    parameters = draw_parameters(0, np.arange(200))
    _, points, _ = _cloud(20000)
    for row in range(200):
        shape = SHAPES[parameters.label[row]]
        inside = _distance(shape, points, np.full(20000, parameters.proportion[row])) < 0.0
        up = parameters.rotation[row, 1]
        heights = (up @ points[:, inside]) * parameters.scale[row] + parameters.height[row]
        assert -1e-5 < heights.min() < 0.4, shape.name


def test_rotations_turn_without_stretching() -> None:
    rotation = draw_parameters(0, np.arange(50)).rotation
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-6)


def _one(parameters: Parameters, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin [3] and directions [s, s, 3] of one scene's rays in its object's frame, and the room's depth."""
    rays = camera_rays(parameters, size, (0.0, 0.0))
    room = meet_room(parameters, rays).depth[0]
    to_local = parameters.rotation[0].astype(np.float64) / parameters.scale[0]
    origin = (parameters.camera[0] - np.array([0.0, parameters.height[0], 0.0])) @ to_local
    return origin, np.stack([c[0] for c in rays.direction], axis=-1) @ to_local, room


def _check(index: int, expected: np.ndarray) -> None:
    """Compare a rendered scene with depths found analytically, infinite beside the object."""
    scenes = render(np.array([index]), 64)
    _, _, room = _one(draw_parameters(0, np.array([index])), 64)
    hit = np.isfinite(expected)
    assert (hit != scenes.masks[0]).sum() <= 3
    both = hit & scenes.masks[0]
    assert both.sum() > 100
    # At the silhouette a ray grazes the surface, and its depth is ill-conditioned.
    error = np.abs(scenes.depth[0] - expected)[both]
    assert np.quantile(error, 0.97) < 1e-3
    assert error.max() < 0.05
    assert (expected[both] < room[both]).all()
    np.testing.assert_array_equal(scenes.depth[0][~scenes.masks[0]], room[~scenes.masks[0]])


@pytest.mark.parametrize("index", [0, 10, 20])
def test_sphere_agrees_with_the_quadratic_formula(index: int) -> None:
    parameters = draw_parameters(0, np.array([index]))
    origin, direction, _ = _one(parameters, 64)
    a, b = (direction * direction).sum(-1), direction @ origin
    root = b * b - a * (origin @ origin - 0.8**2)
    _check(index, np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf))


@pytest.mark.parametrize("index", [5, 15, 25])
def test_pyramid_agrees_with_clipping_by_its_five_planes(index: int) -> None:
    parameters = draw_parameters(0, np.array([index]))
    corners, _ = SHAPES[5].hull(parameters.proportion.astype(np.float64))
    base, half = np.abs(corners[0, 0, 0]), np.abs(corners[0, 0, 1])
    slopes = [(2 * half * x, base, 2 * half * z, half * base) for x, z in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    origin, direction, _ = _one(parameters, 64)
    enter, leave = np.full((64, 64), -np.inf), np.full((64, 64), np.inf)
    for *normal, limit in [*slopes, (0.0, -1.0, 0.0, half)]:
        speed, gap = direction @ np.array(normal), limit - origin @ np.array(normal)
        enter = np.where(speed < 0, np.maximum(enter, gap / speed), enter)
        leave = np.where(speed > 0, np.minimum(leave, gap / speed), leave)
    _check(index, np.where(enter < leave, enter, np.inf))


def test_shadows_fall_on_the_room_and_are_soft() -> None:
    for number, shape in enumerate(SHAPES):
        parameters = draw_parameters(0, np.arange(number, 80, 10))
        room = meet_room(parameters, camera_rays(parameters, 48, (0.0, 0.0)))
        direct, ambient = room_light(parameters, shape, room)
        assert ((direct >= 0.0) & (direct <= 1.0)).all()
        assert ((ambient > 0.2) & (ambient <= 1.0)).all()
        dark, half = direct < 0.1, (direct > 0.2) & (direct < 0.8)
        assert (dark.mean(axis=(1, 2)) > 0.003).all(), shape.name
        assert (half.mean(axis=(1, 2)) > 0.003).all(), shape.name
        # Contact: the floor is darkest of all right under the object.
        assert (np.where(room.surface == FLOOR, ambient, 1.0).min(axis=(1, 2)) < 0.6).all(), shape.name
