"""Bytes of an image file to an upright RGB picture; what cannot be read says why."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged files; a bug of ours is none of these.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class BrokenImage(Exception):
    """A file that cannot be decoded; the message is the reason, on one line."""


def decode(data: bytes) -> Image.Image:
    """Decode an image file's first frame to RGB, 8 bits per channel.

    A camera's orientation tag is applied, transparent parts are laid over white, 16-bit grey keeps its high byte.
    Everything else is Pillow's own conversion, so that ordinary photos have the bytes the ADM pipeline sees.

    Raises:
        BrokenImage: the bytes are cut short, damaged, of no known format, or have no defined range (floating point).
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return _to_rgb(_upright(image))
    except UnidentifiedImageError:
        raise BrokenImage("not an image in a known format") from None
    except _DAMAGE as error:
        raise BrokenImage(" ".join(str(error).split()) or type(error).__name__) from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        # Damaged metadata on a sound picture: it has no orientation to apply.
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BrokenImage("floating-point values have no defined range; save it with 8 bits per channel")
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(values: np.ndarray) -> Image.Image:
    if values.min() < 0 or values.max() > 0xFFFF:
        raise BrokenImage("32-bit values have no defined range; save it with 8 bits per channel")
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
