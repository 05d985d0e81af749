import numpy as np
import pytest
from PIL import Image

from reals.data.crop import centre_crop


@pytest.mark.golden
@pytest.mark.parametrize("case", ["96x160_64", "375x500_64", "50x40_64", "128x128_64", "129x257_64"])
def test_crop_has_the_bytes_of_adm(golden, case: str) -> None:
    with np.load(golden / "extras" / "pixels.npz", allow_pickle=False) as pixels:
        before, after = pixels[f"{case}/in"], pixels[f"{case}/out"]
    np.testing.assert_array_equal(centre_crop(Image.fromarray(before), 64), after)


def test_crop_of_an_image_that_fits_keeps_every_byte() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(centre_crop(Image.fromarray(pixels), 16), pixels)


def test_crop_takes_the_centre_of_the_long_side() -> None:
    pixels = np.zeros((4, 11, 3), dtype=np.uint8)
    pixels[:, 3:7] = 200
    assert (centre_crop(Image.fromarray(pixels), 4) == 200).all()
