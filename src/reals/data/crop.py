"""The centre crop that the field's reference statistics were computed with."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def centre_crop(image: Image.Image, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Scale and crop an RGB image to ``size`` x ``size`` bytes, as ADM (Dhariwal & Nichol 2021) does.

    Halve with a box filter while the short side is at least ``2 * size``, scale the short side to ``size`` by bicubic
    interpolation, then cut the central square, its corner rounded down. Smaller images are enlarged.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))
