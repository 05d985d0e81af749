"""Light and colour of the room: patterned floor and walls, the object's soft shadow, darker corners and contacts."""

import numpy as np

from reals.data.scenes.parameters import Parameters
from reals.data.scenes.patterns import GRADIENT, PLAIN, plane_pattern
from reals.data.scenes.shapes import Shape
from reals.data.scenes.tracing import BACK, FLOOR, Rays, Room, light_direction, light_reaching, to_local
from reals.data.scenes.vector import Vector, over_frame

_CONTACT_REACH = 0.85
_CORNER_REACH = 0.9


def room_light(parameters: Parameters, shape: Shape, room: Room) -> tuple[np.ndarray, np.ndarray]:
    """Return how much direct and how much ambient light the object leaves to each point of the room, [k, s, s]."""
    x, y, z = room.point
    gap = Vector(x, y - over_frame(parameters.height), z).scaled(over_frame(1.0 / parameters.scale))
    light = Vector.from_rows(parameters.light).over_frame()
    distance_squared = gap.dot(gap)
    before_object = -gap.dot(light)
    direct, ambient = np.ones_like(x), np.ones_like(x)
    area = x.shape[1] * x.shape[2]

    reach = over_frame(1.6 * parameters.bound)
    shaded = (distance_squared - before_object * before_object < reach * reach) & (before_object > -reach)
    point = np.nonzero(shaded.reshape(-1))[0]
    scene = point // area
    direct.reshape(-1)[point] = light_reaching(
        shape,
        to_local(parameters, gap.at(point), scene),
        light_direction(parameters).at(scene),
        parameters.proportion[scene],
        parameters.bound[scene],
        parameters.hardness[scene],
    )

    reach = over_frame(parameters.bound + _CONTACT_REACH)
    point = np.nonzero((distance_squared < reach * reach).reshape(-1))[0]
    scene = point // area
    to_object = shape.distance(*to_local(parameters, gap.at(point), scene), parameters.proportion[scene])
    closeness = 1.0 - np.clip(to_object * (1.0 / _CONTACT_REACH), 0.0, 1.0)
    ambient.reshape(-1)[point] = 1.0 - 0.72 * closeness * closeness
    return direct, ambient


def shade_room(
    parameters: Parameters, rays: Rays, room: Room, direct: np.ndarray, ambient: np.ndarray
) -> list[np.ndarray]:
    """Return the linear colour of the room, three channels of [k, s, s]."""
    on_floor = room.surface == FLOOR
    beam = direct * _facing(parameters, room)
    around = ambient * _corners(parameters, room)
    weight = _pattern(parameters, rays, room)
    channels = []
    for c in range(3):
        light = around * over_frame(parameters.ambient[:, c]) + beam * over_frame(parameters.key[:, c])
        first = np.where(on_floor, over_frame(parameters.floor[:, 0, c]), over_frame(parameters.wall[:, 0, c]))
        second = np.where(on_floor, over_frame(parameters.floor[:, 1, c]), over_frame(parameters.wall[:, 1, c]))
        channels.append((first + weight * (second - first)) * light)
    return channels


def _facing(parameters: Parameters, room: Room) -> np.ndarray:
    """Return the cosine between the light and the normal of the surface met, [k, s, s]."""
    sine, cosine, _, side, _ = parameters.room.T
    x, y, z = parameters.light.T
    back = over_frame(np.maximum(x * sine + z * cosine, 0.0))
    other = over_frame(np.maximum(-side * (x * cosine - z * sine), 0.0))
    return np.where(room.surface == FLOOR, over_frame(y), np.where(room.surface == BACK, back, other))


def _corners(parameters: Parameters, room: Room) -> np.ndarray:
    """Return the ambient light that the room leaves near its own corners, [k, s, s]."""
    back, side, other = (over_frame(parameters.room[:, i]) for i in (2, 3, 4))
    x, height, z = room.local
    to_back, to_other = z + back, other - side * x
    # The surface a point lies on is at distance 0; the next nearest is the middle one of the three distances.
    low, high = np.minimum(height, to_back), np.maximum(height, to_back)
    nearest = np.maximum(low, np.minimum(high, to_other))
    closeness = 1.0 - np.clip(nearest * (1.0 / _CORNER_REACH), 0.0, 1.0)
    return 1.0 - 0.40 * closeness * closeness


def _pattern(parameters: Parameters, rays: Rays, room: Room) -> np.ndarray:
    """Return the weight of the second colour on floor and walls, [k, s, s]."""
    x, height, z = room.local
    weight = np.zeros_like(x)
    pixel = room.depth * over_frame(parameters.tangent) * np.float32(2.0 / x.shape[-1])
    # Seen at a grazing angle, a pixel covers a longer stretch of floor.
    pixel_on_floor = pixel / np.maximum(-rays.direction.y * rays.inverse_length, np.float32(0.05))
    for number in range(len(x)):
        on_floor = room.surface[number] == FLOOR
        kind, period, phase = parameters.floor_pattern[number]
        if int(kind) != PLAIN:
            u, v, footprint = x[number][on_floor], z[number][on_floor], pixel_on_floor[number][on_floor]
            sharpness = period * np.float32(0.35) / footprint
            weight[number][on_floor] = plane_pattern(int(kind), u / period + phase, v / period, sharpness)
        kind, period, phase = parameters.wall_pattern[number]
        if int(kind) != PLAIN:
            on_wall = ~on_floor
            u = np.where(room.surface[number][on_wall] == BACK, x[number][on_wall], z[number][on_wall])
            # A gradient spans the wall rather than repeat.
            v = height[number][on_wall] / (1.2 if int(kind) == GRADIENT else period)
            sharpness = period * np.float32(0.35) / pixel[number][on_wall]
            weight[number][on_wall] = plane_pattern(int(kind), u / period + phase, v, sharpness)
    return weight
