import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from reals.data.decode import BrokenImage, decode


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_photo_keeps_its_bytes(png: Callable[..., bytes]) -> None:
    data = png(7)
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_format_becomes_rgb(png: Callable[..., bytes], kind: str) -> None:
    image = decode(png(1, (9, 5), kind))
    assert (image.mode, image.size) == ("RGB", (9, 5))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert decode(save(Image.new("RGB", (3, 2), "red").convert(mode), kind)).mode == "RGB"


def test_camera_orientation_is_applied() -> None:
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255
    image = Image.fromarray(pixels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = np.asarray(decode(save(image, exif=exif)))
        assert upright.shape[:2] == ((8, 16) if orientation < 5 else (16, 8))
        bright_first = orientation in (1, 4, 5, 6)
        assert (upright[0, 0, 0] == 255) == bright_first, orientation


def test_transparent_parts_lie_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 255, 0))
    assert np.asarray(decode(save(image))).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_transparent_palette_colour_lies_over_white() -> None:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([0, 0, 255])
    assert np.asarray(decode(save(image, transparency=0))).tolist() == [[[255, 255, 255]]]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    image = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], dtype=np.uint16))
    assert np.asarray(decode(save(image)))[0, :, 0].tolist() == [0, 0x80, 0xFF]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (2, 2), 0.5), "floating-point"),
        (Image.new("I", (2, 2), 1 << 20), "32-bit"),
    ],
)
def test_values_without_a_range_are_refused(image: Image.Image, reason: str) -> None:
    with pytest.raises(BrokenImage, match=reason):
        decode(save(image, "TIFF"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "not an image in a known format"),
        (lambda data: b"<html>", "not an image in a known format"),
        (lambda data: data[: len(data) // 2], "truncated"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damage_is_named_in_one_line(png: Callable[..., bytes], kind: str, damage, reason: str) -> None:
    with pytest.raises(BrokenImage, match=reason) as caught:
        decode(damage(png(3, (64, 64), kind)))
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_never_escapes_as_another_error(png: Callable[..., bytes]) -> None:
    sound = png(3, (16, 16))
    refused = 0
    for position in range(8, len(sound), 7):
        damaged = bytearray(sound)
        damaged[position] ^= 0xFF
        try:
            decode(bytes(damaged))
        except BrokenImage:
            refused += 1
    assert refused > 100
