"""Colour of the object: texture under soft light, with a highlight and a faint reflection of the room."""

from dataclasses import dataclass

import numpy as np

from reals.data.scenes.parameters import Parameters
from reals.data.scenes.patterns import CHECKER, DOTS, STRIPES, solid_pattern
from reals.data.scenes.shapes import Shape
from reals.data.scenes.tracing import Hits, light_direction, light_reaching, surface_normal
from reals.data.scenes.vector import Vector

_CREVICE_REACH = 0.3


@dataclass(frozen=True)
class _Light:
    """What reaches points of the object, each [m]."""

    normal: Vector
    light: Vector
    up: Vector
    beam: np.ndarray
    """Direct light: the cosine to the light's direction, less what the object hides from itself."""
    openness: np.ndarray
    """Fraction of the surroundings that the object itself does not hide."""


def shade_object(parameters: Parameters, shape: Shape, hits: Hits, size: int) -> list[np.ndarray]:
    """Return the linear colour of the object where rays meet it, three channels of [m].

    Lambert's law under a soft key light, with ambient light from above and light reflected by the floor.
    """
    scene = hits.scene
    here = _light(parameters, shape, hits)
    upward = here.normal.dot(here.up)
    height = hits.point.dot(here.up) + (parameters.height / parameters.scale)[scene]
    near_floor = 1.0 - np.clip(height * 1.6, 0.0, 1.0)
    sky = (0.62 + 0.38 * upward) * here.openness * (1.0 - 0.45 * near_floor * near_floor)
    bounce = (0.5 - 0.5 * upward) * here.openness * (0.35 + 0.65 * np.clip(height, 0.0, 1.0))
    highlight, mirror, to_wall = _reflection(parameters, hits, here)
    weight = _texture(parameters, hits, size)
    channels = []
    for c in range(3):
        first, second = parameters.surface[:, 0, c], parameters.surface[:, 1, c]
        floor, wall = parameters.floor[:, 0, c][scene], parameters.wall[:, 0, c][scene]
        key = parameters.key[:, c][scene]
        albedo = first[scene] + weight * (second - first)[scene]
        received = parameters.ambient[:, c][scene] * sky + key * (here.beam + 0.45 * floor * bounce)
        reflected = mirror * (floor + to_wall * (wall - floor)) + highlight * key
        channels.append(albedo * received + reflected)
    return channels


def _light(parameters: Parameters, shape: Shape, hits: Hits) -> _Light:
    scene = hits.scene
    proportion = parameters.proportion[scene]
    normal = surface_normal(shape, hits.point, proportion)
    light = light_direction(parameters).at(scene)
    up = Vector.from_rows(parameters.rotation[:, 1]).at(scene)
    facing = normal.dot(light)
    beam = np.maximum(facing, 0.0)
    if shape.convex:
        return _Light(normal, light, up, beam, np.ones_like(beam))
    lit = np.nonzero(facing > 0.0)[0]
    bound, hardness = parameters.bound[scene[lit]], parameters.hardness[scene[lit]]
    # Start a little above the surface, lest it shade itself by being near.
    start = hits.point.towards(normal, 0.03).at(lit)
    beam[lit] = beam[lit] * light_reaching(shape, start, light.at(lit), proportion[lit], bound, hardness)
    space = shape.distance(*hits.point.towards(normal, _CREVICE_REACH), proportion) * (1.0 / _CREVICE_REACH)
    return _Light(normal, light, up, beam, 0.35 + 0.65 * np.clip(space, 0.0, 1.0))


def _reflection(parameters: Parameters, hits: Hits, here: _Light) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the strength of the highlight, that of the mirrored room, and how much of the latter is wall, each [m].

    Highlight: Blinn (1977) with the rational approximation of the power by Schlick (1994). The mirror grows towards
    grazing angles with the fifth power of Schlick's Fresnel approximation.
    """
    view = hits.direction.scaled(-1.0)
    between = here.light.plus(view)
    aligned = np.maximum(here.normal.dot(between), 0.0) / np.sqrt(np.maximum(between.dot(between), np.float32(1e-6)))
    strength, exponent = parameters.gloss[:, 0][hits.scene], parameters.gloss[:, 1][hits.scene]
    highlight = 0.85 * strength * aligned / (exponent - exponent * aligned + aligned)
    # Fade where the light itself sets behind the surface.
    highlight = highlight * np.minimum(here.beam * 4.0, 1.0)
    toward_viewer = np.maximum(here.normal.dot(view), 0.0)
    grazing = 1.0 - toward_viewer
    squared = grazing * grazing
    mirror = strength * (0.045 + 0.5 * squared * squared * grazing) * here.openness
    mirrored_up = 2.0 * toward_viewer * here.normal.dot(here.up) - view.dot(here.up)
    return highlight, mirror, np.clip(0.5 + 2.0 * mirrored_up, 0.0, 1.0)


def _texture(parameters: Parameters, hits: Hits, size: int) -> np.ndarray:
    """Return the weight of the object's second colour, [m]."""
    weight = np.zeros_like(hits.depth)
    kinds = parameters.texture[:, 0].astype(np.int64)[hits.scene]
    pixel = hits.depth * (parameters.tangent / parameters.scale)[hits.scene] * np.float32(2.0 / size)
    for kind in (STRIPES, CHECKER, DOTS):
        chosen = np.nonzero(kinds == kind)[0]
        if len(chosen) == 0:
            continue
        scene, point = hits.scene[chosen], hits.point.at(chosen)
        period, phase = parameters.texture[:, 1][scene], parameters.texture[:, 2][scene]
        across = point.dot(Vector.from_rows(parameters.texture_axis).at(scene)) / period + phase
        # Shifted off the centre, so that no flat face of a symmetric solid lies along a boundary.
        lattice = [c / (1.5 * period) + 0.25 + 0.1 * phase for c in point]
        weight[chosen] = solid_pattern(kind, lattice, across, period * np.float32(0.5) / pixel[chosen])
    return weight
