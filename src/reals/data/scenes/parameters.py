"""What varies from scene to scene: pose, camera, room, light, colours and textures, drawn from (seed, index) alone.

The world has y up and the object above its origin; the camera looks along -z, tilted down; the room is turned about y.
Every draw of scene i comes from its own generator, ``PCG64(derive_seed(seed, "scene", i))``.
"""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from reals.data.scenes.colours import draw_palette
from reals.data.scenes.patterns import CHECKER, DOTS, GRADIENT, PLAIN, STRIPES, TILES
from reals.data.scenes.shapes import SHAPES
from reals.runtime.seed import derive_seed

_DRAWS = 80
# Patterns of the room's surfaces and of the object; repeated kinds are likelier.
_FLOORS = (PLAIN, PLAIN, CHECKER, CHECKER, STRIPES, TILES)
_WALLS = (PLAIN, PLAIN, GRADIENT, GRADIENT, STRIPES, STRIPES, CHECKER, TILES, DOTS)
_TEXTURES = (PLAIN, PLAIN, PLAIN, STRIPES, STRIPES, CHECKER, CHECKER, DOTS, DOTS)


class Draws:
    """Uniform numbers of many scenes, handed out column by column so that every parameter is one array [n]."""

    def __init__(self, seed: int, indices: np.ndarray):
        seeds = [derive_seed(seed, "scene", int(index)) for index in indices]
        rows = [np.random.Generator(np.random.PCG64(s)).random(_DRAWS) for s in seeds]
        # Contiguous columns: numpy may round a sine of strided numbers differently from one of contiguous numbers.
        self._columns = np.ascontiguousarray(np.array(rows).reshape(len(rows), _DRAWS).T)
        self._next = 0

    def unit(self) -> np.ndarray:
        """Return the next column, uniform in [0, 1)."""
        self._next += 1
        return self._columns[self._next - 1]

    def uniform(self, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
        """Return numbers uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def choice(self, options: tuple[int, ...]) -> np.ndarray:
        """Return equally likely options."""
        return np.array(options)[(self.unit() * len(options)).astype(np.int64)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Scenes as float32 arrays, one row per scene; lengths in world units, in which an object is about 1.6 across."""

    label: np.ndarray
    """Class, int64 [n]."""
    proportion: np.ndarray
    """Stretch of the shape, in [-1, 1]."""
    bound: np.ndarray
    """Radius of the object's bounding sphere, in local units."""
    scale: np.ndarray
    """World units per local unit."""
    rotation: np.ndarray
    """[n, 3, 3], local to world."""
    height: np.ndarray
    """Height of the object's local origin, such that its lowest point touches the floor."""
    camera: np.ndarray
    """[n, 3], position."""
    tangent: np.ndarray
    """Tangent of half the field of view."""
    pitch: np.ndarray
    """[n, 2], sine and cosine of the camera's downward angle."""
    room: np.ndarray
    """[n, 5]: sine and cosine of the turn about y, distance of the back wall, side of the other wall, its distance."""
    light: np.ndarray
    """[n, 3], unit vector towards the light."""
    hardness: np.ndarray
    """Sharpness of cast shadows: one over the light's apparent radius."""
    key: np.ndarray
    """[n, 3], colour of the direct light."""
    ambient: np.ndarray
    """[n, 3], colour of the light from everywhere."""
    floor: np.ndarray
    """[n, 2, 3], the floor's two colours, linear RGB."""
    wall: np.ndarray
    """[n, 2, 3], the walls' two colours."""
    surface: np.ndarray
    """[n, 2, 3], the object's two colours."""
    floor_pattern: np.ndarray
    """[n, 3]: kind, period and phase."""
    wall_pattern: np.ndarray
    """[n, 3]: kind, period and phase."""
    texture: np.ndarray
    """[n, 3]: kind, period and phase on the object, in local units."""
    texture_axis: np.ndarray
    """[n, 3], direction across the object's stripes, local."""
    gloss: np.ndarray
    """[n, 2]: strength and exponent of the highlight."""

    def rows(self, chosen: np.ndarray) -> "Parameters":
        """Return the scenes at ``chosen``."""
        return Parameters(**{f.name: getattr(self, f.name)[chosen] for f in dataclasses.fields(self)})


def draw_parameters(seed: int, indices: np.ndarray, *, plain: bool = False) -> Parameters:
    """Draw the parameters of scenes ``indices`` [n]; the class of scene i is i modulo the number of classes.

    ``plain`` scenes vary less, for a generator that has minutes to learn: no patterns, each class in the first of its
    poses, in the middle of the picture, in front of one wall.
    """
    draws = Draws(seed, indices)
    label = indices % len(SHAPES)
    values: dict[str, np.ndarray] = {}
    values |= _draw_object(draws, label, plain=plain)
    values |= _draw_view(draws, values, plain=plain)
    values |= _draw_patterns(draws)
    values |= draw_palette(draws)
    if plain:
        for name in ("floor_pattern", "wall_pattern", "texture"):
            values[name][:, 0] = PLAIN
    return Parameters(label=label, **{name: value.astype(np.float32) for name, value in values.items()})


def _draw_object(draws: Draws, label: np.ndarray, *, plain: bool) -> dict[str, np.ndarray]:
    proportion, scale = draws.uniform(-1.0, 1.0), draws.uniform(0.8, 1.2)
    which, tilt_unit, yaw_unit, spin_unit = (draws.unit() for _ in range(4))
    if plain:
        which = np.zeros_like(which)
    rotation, bound, lowest = np.zeros((len(label), 3, 3)), np.zeros(len(label)), np.zeros(len(label))
    for number, shape in enumerate(SHAPES):
        rows = np.nonzero(label == number)[0]
        if len(rows) == 0:
            continue
        ranges = np.array([(pose.tilt, pose.yaw, pose.spin) for pose in shape.poses])
        chosen = np.ascontiguousarray(ranges[(which[rows] * len(shape.poses)).astype(np.int64)].transpose(1, 2, 0))
        units = (tilt_unit[rows], yaw_unit[rows], spin_unit[rows])
        angles = [low + (high - low) * u for (low, high), u in zip(chosen, units, strict=True)]
        rotation[rows] = _rotation(*angles)
        points, radius = shape.hull(proportion[rows])
        up = rotation[rows, 1][:, None]
        heights = up[..., 0] * points[..., 0] + up[..., 1] * points[..., 1] + up[..., 2] * points[..., 2]
        lowest[rows] = heights.min(axis=1) - radius
        bound[rows] = np.sqrt(np.square(points).sum(axis=-1)).max(axis=1) + radius + 1e-3
    return {
        "proportion": proportion,
        "scale": scale,
        "rotation": rotation,
        "bound": bound,
        "height": -lowest * scale,
    }


def _rotation(tilt: np.ndarray, yaw: np.ndarray, spin: np.ndarray) -> np.ndarray:
    """Return yaw (about y) after tilt (about x) after spin (about y), angles in degrees, as matrices [n, 3, 3]."""
    (ct, st), (cy, sy), (cs, ss) = ((np.cos(a), np.sin(a)) for a in (np.radians(b) for b in (tilt, yaw, spin)))
    rows = [
        [cy * cs - sy * ct * ss, sy * st, cy * ss + sy * ct * cs],
        [st * ss, ct, -st * cs],
        [-sy * cs - cy * ct * ss, cy * st, -sy * ss + cy * ct * cs],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _draw_view(draws: Draws, values: dict[str, np.ndarray], *, plain: bool) -> dict[str, np.ndarray]:
    pitch = np.radians(draws.uniform(14.0, 34.0))
    tangent = np.tan(np.radians(draws.uniform(14.0, 21.0)))
    # The object's radius, near enough, fills this fraction of half the frame, wherever in the frame its centre is put.
    fraction = draws.uniform(0.58, 0.86)
    framed = np.clip(values["bound"], 0.92, 1.02) * values["scale"]
    across, up = draws.uniform(-0.9, 0.9) * (1.0 - fraction), draws.uniform(-0.7, 0.5) * (1.0 - fraction)
    if plain:
        across, up = np.zeros_like(across), np.zeros_like(up)
    away = framed / (fraction * tangent)
    sine, cosine = np.sin(pitch), np.cos(pitch)
    camera = [
        -away * across * tangent,
        values["height"] + away * (sine - up * tangent * cosine),
        away * (cosine + up * tangent * sine),
    ]
    corner = (draws.unit() < 0.4) & (not plain)
    side = np.where(draws.unit() < 0.5, -1.0, 1.0)
    turn = side * np.radians(np.where(corner, draws.uniform(14.0, 42.0), draws.uniform(0.0, 22.0)))
    back = draws.uniform(1.5, 3.6) * values["scale"]
    other = np.where(corner, draws.uniform(1.5, 3.0) * values["scale"], 1e3)
    # The light stands on the side away from the other wall, so that both walls are lit.
    slant = np.radians(draws.uniform(28.0, 74.0)) * np.where(corner | (draws.unit() < 0.5), -side, side)
    elevation = np.radians(draws.uniform(32.0, 62.0))
    light = [
        np.sin(turn + slant) * np.cos(elevation),
        np.sin(elevation),
        np.cos(turn + slant) * np.cos(elevation),
    ]
    return {
        "camera": np.stack(camera, axis=1),
        "tangent": tangent,
        "pitch": np.stack([sine, cosine], axis=1),
        "room": np.stack([np.sin(turn), np.cos(turn), back, side, other], axis=1),
        "light": np.stack(light, axis=1),
        "hardness": draws.uniform(4.0, 14.0),
    }


def _draw_patterns(draws: Draws) -> dict[str, np.ndarray]:
    floor = [draws.choice(_FLOORS), draws.uniform(0.9, 1.9), draws.unit()]
    wall = [draws.choice(_WALLS), draws.uniform(0.8, 1.7), draws.unit()]
    texture = [draws.choice(_TEXTURES), draws.uniform(0.55, 0.85), draws.unit()]
    upright, lean = draws.unit() < 0.5, draws.uniform(0.0, math.tau)
    rise = draws.uniform(-0.7, 0.7)
    level = np.sqrt(1.0 - rise * rise)
    axis = [
        np.where(upright, 0.0, level * np.cos(lean)),
        np.where(upright, 1.0, rise),
        np.where(upright, 0.0, level * np.sin(lean)),
    ]
    shiny = draws.unit() < 0.6
    gloss = [
        np.where(shiny, draws.uniform(0.35, 0.9), draws.uniform(0.03, 0.12)),
        np.where(shiny, draws.uniform(24.0, 90.0), draws.uniform(6.0, 14.0)),
    ]
    return {
        "floor_pattern": np.stack(floor, axis=1),
        "wall_pattern": np.stack(wall, axis=1),
        "texture": np.stack(texture, axis=1),
        "texture_axis": np.stack(axis, axis=1),
        "gloss": np.stack(gloss, axis=1),
    }
