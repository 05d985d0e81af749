"""Scenes of given indices as images, labels, masks and depth maps."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from reals.data.scenes.colours import encode
from reals.data.scenes.parameters import Parameters, draw_parameters
from reals.data.scenes.room import room_light, shade_room
from reals.data.scenes.shapes import SHAPES, Shape
from reals.data.scenes.surface import shade_object
from reals.data.scenes.tracing import camera_rays, meet_object, meet_room

SCENE_CLASSES: tuple[str, ...] = tuple(shape.name for shape in SHAPES)
"""Names of the classes; scene i shows ``SCENE_CLASSES[i % len(SCENE_CLASSES)]``."""

SMALLEST, LARGEST = 16, 1024
# A rotated grid: four samples on four different rows and columns of the pixel, (right, down) from its centre.
_SAMPLES = ((0.125, -0.375), (0.375, 0.125), (-0.125, 0.375), (-0.375, -0.125))
# Pixels rendered together: few enough that temporaries stay in cache, many enough that Python's overhead is small.
_PIXELS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Scenes:
    """Rendered scenes."""

    images: UInt8[np.ndarray, "n size size 3"]
    """sRGB."""
    labels: Int64[np.ndarray, " n"]
    """Positions in SCENE_CLASSES."""
    masks: Bool[np.ndarray, "n size size"]
    """Whether the ray through the pixel's centre meets the object."""
    depth: Float32[np.ndarray, "n size size"]
    """Distance along the optical axis of the surface at the pixel's centre, in world units
    (an object is about 1.6 across); positive and finite everywhere, for the room is closed."""


def render(indices: np.ndarray, size: int, seed: int = 0, *, plain: bool = False) -> Scenes:
    """Render scenes ``indices`` (int [n], not negative) at ``size`` by ``size`` pixels.

    Scene i is a function of (seed, i) only: not of the other indices, nor, up to sampling, of the size. Its class is
    i modulo the number of classes, so any run of consecutive indices is balanced. ``plain`` scenes vary
    less: no patterns, one pose a class, the object in the middle.

    Raises:
        ValueError: the size is outside [16, 1024], an index is negative, or the indices are not one row of integers.
    """
    indices = np.asarray(indices)
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size {size}: scenes are rendered at {SMALLEST} to {LARGEST} pixels")
    if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or indices.size == 0):
        raise ValueError(f"indices: expected one row of integers, found {indices.dtype} of shape {indices.shape}")
    if indices.size and indices.min() < 0:
        raise ValueError(f"indices: {indices.min()} is negative; scenes are numbered from 0")
    indices = indices.astype(np.int64)
    count = len(indices)
    parameters = draw_parameters(seed, indices, plain=plain)
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    masks = np.empty((count, size, size), dtype=np.bool_)
    depth = np.empty((count, size, size), dtype=np.float32)
    together = max(1, _PIXELS_AT_ONCE // (size * size))
    for number, shape in enumerate(SHAPES):
        rows = np.nonzero(parameters.label == number)[0]
        for start in range(0, len(rows), together):
            chunk = rows[start : start + together]
            images[chunk], masks[chunk], depth[chunk] = _render_chunk(parameters.rows(chunk), shape, size)
    return Scenes(images, parameters.label, masks, depth)


def _render_chunk(parameters: Parameters, shape: Shape, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render scenes of one class: image, mask and depth."""
    rays = camera_rays(parameters, size, (0.0, 0.0))
    room = meet_room(parameters, rays)
    hits = meet_object(parameters, shape, rays, room)
    mask = np.zeros(room.depth.size, dtype=np.bool_)
    mask[hits.ray] = True
    depth = room.depth.reshape(-1).copy()
    depth[hits.ray] = hits.depth
    # Shadows are soft, so one evaluation per pixel serves its samples.
    direct, ambient = room_light(parameters, shape, room)
    total = [np.zeros_like(room.depth) for _ in range(3)]
    for offset in _SAMPLES:
        rays = camera_rays(parameters, size, offset)
        room = meet_room(parameters, rays)
        hits = meet_object(parameters, shape, rays, room)
        colours = shade_room(parameters, rays, room, direct, ambient)
        on_object = shade_object(parameters, shape, hits, size)
        for channel, colour, sum_so_far in zip(colours, on_object, total, strict=True):
            channel.reshape(-1)[hits.ray] = colour
            sum_so_far += channel
    grid = np.square((np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1.0)
    exposure = (1.0 - 0.09 * (grid[None, :] + grid[:, None])) * np.float32(1.0 / len(_SAMPLES))
    image = np.stack([encode(channel * exposure) for channel in total], axis=-1)
    return image, mask.reshape(room.depth.shape), depth.reshape(room.depth.shape)
