"""Rays against scenes: the camera, the room's planes, the object by sphere tracing, soft shadows and occlusion.

Arrays [k, s, s] hold one value per scene and pixel; arrays [m] hold the few rays that may meet the object, with the
scene each belongs to. Directions have a component of 1 along the optical axis, so a ray's parameter is its depth.
All arithmetic is elementwise and exactly rounded: no value depends on the others in its batch.
"""

from dataclasses import dataclass

import numpy as np

from reals.data.scenes.parameters import Parameters
from reals.data.scenes.shapes import Shape
from reals.data.scenes.vector import Vector, over_frame

_FAR = np.float32(1e6)
_SURFACE = 1e-4
_NEAR = 0.03
_STEPS = 144
_STEPS_BETWEEN_SORTING = 3
_SHADOW_STEPS = 14
FLOOR, BACK, OTHER = range(3)


@dataclass(frozen=True)
class Rays:
    """Rays of the camera through one point of every pixel; all [k, s, s]."""

    direction: Vector
    """World directions."""
    length: np.ndarray
    """Length of each direction: distance per unit of depth."""
    inverse_length: np.ndarray


@dataclass(frozen=True)
class Room:
    """Where each ray meets the room; all [k, s, s]."""

    depth: np.ndarray
    surface: np.ndarray
    """FLOOR, BACK or OTHER wall, int8."""
    point: Vector
    """World coordinates."""
    local: Vector
    """Coordinates of the turned room: along the back wall, height, distance from the middle towards the camera."""


@dataclass(frozen=True)
class Hits:
    """Rays that meet the object; all [m]."""

    ray: np.ndarray
    """Position in the flattened [k, s, s]."""
    scene: np.ndarray
    """Position in the chunk."""
    depth: np.ndarray
    point: Vector
    """Local coordinates of the object."""
    direction: Vector
    """Local direction of the ray, of unit length."""


def to_local(parameters: Parameters, vector: Vector, scene: np.ndarray) -> Vector:
    """Rotate world vectors [m] into the frame of the object of each one's scene."""
    entries = parameters.rotation.transpose(1, 2, 0)
    x, y, z = (
        vector.dot(Vector(entries[0, axis][scene], entries[1, axis][scene], entries[2, axis][scene]))
        for axis in range(3)
    )
    return Vector(x, y, z)


def light_direction(parameters: Parameters) -> Vector:
    """Return the direction of each scene's light in its object's frame, [k]."""
    return to_local(parameters, Vector.from_rows(parameters.light), np.arange(len(parameters.light)))


def camera_rays(parameters: Parameters, size: int, offset: tuple[float, float]) -> Rays:
    """Aim one ray through each pixel, ``offset`` (right, down) from its centre in pixels."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0
    step = np.float32(2.0 / size)
    tangent = over_frame(parameters.tangent)
    right = (grid + step * np.float32(offset[0]))[None, None, :] * tangent
    up = -(grid + step * np.float32(offset[1]))[None, :, None] * tangent
    sine, cosine = over_frame(parameters.pitch[:, 0]), over_frame(parameters.pitch[:, 1])
    length = np.sqrt(1.0 + right * right + up * up)
    full = np.zeros((1, size, size), dtype=np.float32)
    direction = Vector(right + full, up * cosine - sine + full, -up * sine - cosine + full)
    return Rays(direction, length, 1.0 / length)


def meet_room(parameters: Parameters, rays: Rays) -> Room:
    """Intersect rays with the floor, the back wall and the other wall."""
    sine, cosine, back, side, other = (over_frame(parameters.room[:, i]) for i in range(5))
    camera = Vector.from_rows(parameters.camera).over_frame()
    x, y, z = rays.direction
    room_x, room_z = x * cosine - z * sine, x * sine + z * cosine
    camera_x, camera_z = camera.x * cosine - camera.z * sine, camera.x * sine + camera.z * cosine
    tiny = np.float32(1e-7)
    floor = np.where(y < -tiny, camera.y / np.maximum(-y, tiny), _FAR)
    back = (camera_z + back) / np.maximum(-room_z, tiny)
    towards = room_x * side
    other = np.where(towards > tiny, (other - camera_x * side) / np.maximum(towards, tiny), _FAR)
    depth = np.minimum(np.minimum(floor, back), other)
    surface = np.where(floor <= depth, np.int8(FLOOR), np.where(back <= depth, np.int8(BACK), np.int8(OTHER)))
    point = camera.towards(rays.direction, depth)
    local = Vector(camera_x + depth * room_x, point.y, camera_z + depth * room_z)
    return Room(depth, surface, point, local)


def meet_object(parameters: Parameters, shape: Shape, rays: Rays, room: Room) -> Hits:
    """Sphere-trace the rays that pass through the object's bounding sphere."""
    camera = Vector.from_rows(parameters.camera)
    # Distances are in local units along a unit direction.
    from_object = Vector(camera.x, camera.y - parameters.height, camera.z).scaled(1.0 / parameters.scale)
    origin = to_local(parameters, from_object, np.arange(len(camera.x)))
    middle = -from_object.over_frame().dot(rays.direction) * rays.inverse_length
    apart = over_frame(from_object.dot(from_object) - parameters.bound * parameters.bound)
    inside = middle * middle - apart
    ray = np.nonzero(inside.reshape(-1) > 0.0)[0]
    scene = ray // (inside.shape[1] * inside.shape[2])
    half, middle = np.sqrt(inside.reshape(-1)[ray]), middle.reshape(-1)[ray]
    inverse_length = rays.inverse_length.reshape(-1)[ray]
    direction = to_local(parameters, rays.direction.at(ray).scaled(inverse_length), scene)
    start = origin.at(scene)
    near = _march(shape, start, direction, parameters.proportion[scene], middle - half, middle + half)
    to_depth = inverse_length * parameters.scale[scene]
    met = np.nonzero((near < _FAR) & (near * to_depth < room.depth.reshape(-1)[ray]))[0]
    direction = direction.at(met)
    point = start.at(met).towards(direction, near[met])
    return Hits(ray[met], scene[met], (near * to_depth)[met], point, direction)


def _march(
    shape: Shape, origin: Vector, direction: Vector, proportion: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    """Step along rays [m] until the surface, from ``start`` to ``stop``; return distances, far where nothing is met.

    Each step is the distance to the surface or, if longer, the secant through the last two distances. Along a ray the
    distance to a convex solid is convex, so a secant drawn from outside stops short of the surface, and a distance that
    grows means a miss. Near other solids the secant is kept short and an overshoot, a negative distance, steps back.
    """
    found = np.full(len(start), _FAR, dtype=np.float32)
    active = np.arange(len(start))
    travelled = start
    last_gap, last_step = np.full_like(start, _FAR), np.zeros_like(start)
    longest = np.float32(64.0 if shape.convex else 3.0)
    for step in range(_STEPS):
        gap = shape.distance(*origin.towards(direction, travelled), proportion)
        closing = last_gap - gap
        secant = gap * np.minimum(last_step / np.maximum(closing, np.float32(1e-9)), longest)
        usable = (closing > 0.0) & (gap > 0.0) & (shape.convex | (gap < _NEAR))
        last_step = np.where(usable, np.maximum(gap, secant), gap)
        if step % _STEPS_BETWEEN_SORTING == 0 and step > 0:
            arrived = abs(gap) < _SURFACE
            gone = travelled > stop
            if shape.convex:
                gone |= closing < 0.0
            found[active[arrived]] = travelled[arrived]
            keep = np.nonzero(~(arrived | gone))[0]
            if len(keep) == 0:
                break
            active, travelled, stop, proportion = active[keep], travelled[keep], stop[keep], proportion[keep]
            origin, direction = origin.at(keep), direction.at(keep)
            gap, last_step = gap[keep], last_step[keep]
        last_gap = gap
        travelled = travelled + last_step
    return found


def surface_normal(shape: Shape, point: Vector, proportion: np.ndarray) -> Vector:
    """Estimate unit normals from four distances at the corners of a small tetrahedron."""
    x = y = z = np.zeros_like(proportion)
    step = np.float32(4e-3)
    for sx, sy, sz in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        gap = shape.distance(point.x + sx * step, point.y + sy * step, point.z + sz * step, proportion)
        x, y, z = x + sx * gap, y + sy * gap, z + sz * gap
    inverse = 1.0 / np.sqrt(np.maximum(x * x + y * y + z * z, np.float32(1e-20)))
    return Vector(x * inverse, y * inverse, z * inverse)


def light_reaching(
    shape: Shape, point: Vector, light: Vector, proportion: np.ndarray, bound: np.ndarray, hardness: np.ndarray
) -> np.ndarray:
    """Return the fraction of a soft light that reaches local points [m], from how nearly their rays miss the object.

    The penumbra grows with distance from the occluder: a ray passing it at distance d after a way t is shaded by
    d * hardness / t, taken smoothly from -1 (hidden) to 1 (free).
    """
    middle = -point.dot(light)
    reach = 1.6 * bound
    half = np.sqrt(np.maximum(middle * middle - point.dot(point) + reach * reach, 0.0))
    travelled = np.maximum(middle - half, np.float32(0.02))
    stop = middle + half
    least_step = (stop - travelled) * np.float32(0.75 / _SHADOW_STEPS)
    clearance = np.ones_like(travelled)
    for _ in range(_SHADOW_STEPS):
        gap = shape.distance(*point.towards(light, travelled), proportion)
        clearance = np.minimum(clearance, hardness * gap / travelled)
        travelled = np.minimum(travelled + np.maximum(gap, least_step), np.maximum(stop, travelled))
    clearance = np.maximum(clearance, -1.0)
    return 0.25 * (1.0 + clearance) * (1.0 + clearance) * (2.0 - clearance)
