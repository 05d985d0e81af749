"""Pictures of attention maps: photos in grey, tinted by how much each cell of the latent resembles a chosen one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from reals.apps.grid import image_grid

PLACES = ((0.5, 0.5), (0.2, 0.2))
"""The chosen cells as shares of height and width: the middle, often an object, and the upper left, often background."""

_WARM, _COOL = np.array([230, 97, 1]), np.array([33, 102, 172])
_SIDE = 128
_TINT = 0.85


def token_cells(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return the cell at each of :data:`PLACES` on a grid."""
    return [(int(y * rows), int(x * columns)) for y, x in PLACES]


def attention_picture(images: UInt8[np.ndarray, "n s s 3"], maps: Sequence[Float[np.ndarray, "n h w"]]) -> Image.Image:
    """Return one row per photo and one column per chosen cell: orange is alike, blue is opposite, grey unrelated."""
    tiles = [
        _tinted(_enlarged(image), found[index], cell)
        for index, image in enumerate(images)
        for found, cell in zip(maps, token_cells(*maps[0].shape[1:]), strict=True)
    ]
    return image_grid(np.stack(tiles), columns=len(maps))


def marked_picture(images: UInt8[np.ndarray, "n s s 3"]) -> Image.Image:
    """Return the photos in the same arrangement, with a ring at the chosen place."""
    tiles = []
    for image in images:
        for y, x in PLACES:
            tile = _enlarged(image)
            rows, columns = np.ogrid[: tile.shape[0], : tile.shape[1]]
            distance = np.hypot(rows - y * tile.shape[0], columns - x * tile.shape[1]) / tile.shape[0]
            tile[(distance > 0.035) & (distance < 0.075)] = 0
            tile[(distance > 0.045) & (distance < 0.065)] = 255
            tiles.append(tile)
    return image_grid(np.stack(tiles), columns=len(PLACES))


def _enlarged(image: UInt8[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "t t 3"]:
    """Return the photo at about the size of a tile."""
    side = image.shape[0] * max(1, round(_SIDE / image.shape[0]))
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def _tinted(photo: np.ndarray, similarity: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """Return the photo, grey and pale, under a tint whose strength is the similarity's size."""
    side = photo.shape[0]
    down, across = (np.arange(side) * cells // side for cells in similarity.shape)
    strength = similarity[down[:, None], across[None, :], None]
    grey = 0.6 * photo.astype(np.float64).mean(axis=2, keepdims=True) + 0.4 * 255
    colour = np.where(strength > 0, _WARM, _COOL)
    weight = _TINT * np.abs(strength)
    tinted = (1 - weight) * grey + weight * colour
    chosen = (down == cell[0])[:, None] & (across == cell[1])[None, :]
    inner = np.zeros_like(chosen)
    inner[2:-2, 2:-2] = chosen[4:, 2:-2] & chosen[:-4, 2:-2] & chosen[2:-2, 4:] & chosen[2:-2, :-4]
    tinted[chosen & ~inner] = 0
    return np.clip(np.rint(tinted), 0, 255).astype(np.uint8)
