from pathlib import Path

import numpy as np
import pytest
import torch

from reals.runtime.pixels import Rounding, to_pixels, to_uint8


def column(values: np.ndarray) -> torch.Tensor:
    """Lay values out as grey pixels of an image one column wide."""
    return torch.from_numpy(values)[None, None, :, None].expand(1, 3, -1, -1)


@pytest.mark.golden
@pytest.mark.parametrize(("rule", "key"), [("nearest", "u8/sit_dit"), ("repa", "u8/repa")])
def test_bytes_are_those_of_the_published_samplers(rule: Rounding, key: str, golden: Path) -> None:
    with np.load(golden / "extras" / "pixels.npz", allow_pickle=False) as pixels:
        values, expected = pixels["u8/x"], pixels[key]
    made = to_uint8(column(values), rule)
    assert made.shape == (1, len(values), 1, 3)
    for channel in range(3):
        np.testing.assert_array_equal(made[0, :, 0, channel], expected)


def test_every_byte_comes_back() -> None:
    images = np.arange(256 * 3, dtype=np.uint16).astype(np.uint8).reshape(2, 8, 16, 3)
    pixels = to_pixels(images)
    assert pixels.shape == (2, 3, 8, 16)
    assert pixels.dtype == torch.float32
    assert (pixels.min().item(), pixels.max().item()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(pixels), images)


def test_tensors_and_arrays_give_the_same_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    assert torch.equal(to_pixels(images), to_pixels(torch.from_numpy(images)))
    assert to_pixels(images).is_contiguous()


def test_half_precision_is_converted_in_single() -> None:
    values = np.linspace(-1.2, 1.2, 97, dtype=np.float32)
    half = column(values).to(torch.bfloat16)
    np.testing.assert_array_equal(to_uint8(half), to_uint8(half.float()))
