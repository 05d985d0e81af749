"""Harmonious palettes, drawn in OKLCH and returned in linear RGB, and the encoding of rendered light as bytes.

OKLab: Björn Ottosson, "A perceptual color space for image processing" (2020); OKLCH is OKLab in polar coordinates.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reals.data.scenes.parameters import Draws

_SHOULDER = 0.62
_CODES = 1 << 14
_BRIGHTEST = 2.0


def _cube(value: np.ndarray) -> np.ndarray:
    return value * value * value


def oklch_to_linear(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Convert OKLCH (lightness and chroma in [0, 1], hue in radians), each [n], to linear sRGB [n, 3] in [0.004, 1]."""
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = _cube(lightness + 0.3963377774 * a + 0.2158037573 * b)
    medium = _cube(lightness - 0.1055613458 * a - 0.0638541728 * b)
    short = _cube(lightness - 0.0894841775 * a - 1.2914855480 * b)
    channels = [
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    ]
    return np.clip(np.stack(channels, axis=-1), 0.004, 1.0)


def _yellowness(hue: np.ndarray) -> np.ndarray:
    """Return 1 at yellow, falling to 0 a quarter of the circle away."""
    return np.maximum(np.cos(hue - math.radians(100.0)), 0.0)


def draw_palette(draws: "Draws") -> dict[str, np.ndarray]:
    """Draw two colours each for object, floor and walls, and the two lights, as linear RGB.

    The object is the most colourful thing; floor and walls are paler and keep away from its hue.
    """
    hue = draws.uniform(0.0, math.tau)
    # Dark yellow looks like mud, so yellow (near 100 degrees) is always light.
    lightness = draws.uniform(0.56, 0.74) + 0.12 * _yellowness(hue)
    chroma = draws.uniform(0.12, 0.19)
    surface = oklch_to_linear(lightness, chroma, hue)
    # The texture's second colour: cream, a darker shade, or a hue from across the circle.
    which = draws.unit()
    partner_hue = hue + draws.uniform(0.55, 1.45) * math.pi
    cream = oklch_to_linear(draws.uniform(0.90, 0.96), 0.03 + 0.0 * hue, hue + 0.6)
    dark = oklch_to_linear(draws.uniform(0.28, 0.38), 0.07 + 0.0 * hue, hue)
    partner = oklch_to_linear(np.maximum(1.42 - lightness, 0.66), 0.13 + 0.0 * hue, partner_hue)
    second = np.where(which[:, None] < 0.45, cream, np.where(which[:, None] < 0.65, dark, partner))

    def muted(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        """Draw a pale colour and a second one a step lighter or darker and a little turned."""
        own_hue = hue + draws.uniform(0.30, 1.70) * math.pi
        own_lightness = np.minimum(draws.uniform(low, high) + 0.06 * _yellowness(own_hue), 0.94)
        vividness = draws.unit()
        own_chroma = 0.02 + 0.09 * vividness * np.sqrt(vividness)
        step = draws.uniform(0.09, 0.20) * np.where(draws.unit() < 0.65, -1.0, 1.0)
        other = oklch_to_linear(
            np.clip(own_lightness + step, 0.4, 0.96), own_chroma, own_hue + draws.uniform(-0.5, 0.5)
        )
        return oklch_to_linear(own_lightness, own_chroma, own_hue), other

    floor, wall = muted(0.64, 0.88), muted(0.70, 0.93)
    warmth, power = draws.uniform(-1.0, 1.0), draws.uniform(0.90, 1.25)
    fill = draws.uniform(0.38, 0.56)
    tint = np.stack([1.0 + 0.10 * warmth, 1.0 + 0.02 * warmth, 1.0 - 0.12 * warmth], axis=-1)
    return {
        "surface": np.stack([surface, second], axis=1),
        "floor": np.stack(floor, axis=1),
        "wall": np.stack(wall, axis=1),
        "key": tint * power[:, None],
        "ambient": (2.0 - tint) * fill[:, None],
    }


def _encoding() -> np.ndarray:
    """Tabulate light in [0, 2] as sRGB bytes, with a shoulder that bends highlights instead of clipping them."""
    light = (np.arange(_CODES) + 0.5) / _CODES * _BRIGHTEST
    room = 1.0 - _SHOULDER
    excess = np.maximum(light - _SHOULDER, 0.0) / room
    shown = np.where(light < _SHOULDER, light, _SHOULDER + room * (excess / (1.0 + excess)) * 1.15)
    shown = np.clip(shown, 0.0, 1.0)
    encoded = np.where(shown <= 0.0031308, 12.92 * shown, 1.055 * shown ** (1 / 2.4) - 0.055)
    return np.round(255.0 * encoded).astype(np.uint8)


_ENCODING = _encoding()


def encode(light: np.ndarray) -> np.ndarray:
    """Turn linear light, float32 of any shape, into sRGB bytes of that shape."""
    return _ENCODING[np.clip(light * (_CODES / _BRIGHTEST), 0, _CODES - 1).astype(np.int32)]
