"""Pictures of many images at once."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from reals.runtime.io import atomic_path

_GAP = 2
_BACKGROUND = 255


def image_grid(images: UInt8[np.ndarray, "n h w 3"], columns: int, scale: int = 1) -> Image.Image:
    """Return images in row-major order on white, each pixel enlarged to ``scale`` x ``scale``."""
    if columns < 1 or scale < 1 or len(images) == 0:
        raise ValueError(f"a grid needs images, columns and a scale; found {len(images)}, {columns} and {scale}")
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    cell_height, cell_width = height * scale + _GAP, width * scale + _GAP
    canvas = np.full((rows * cell_height + _GAP, columns * cell_width + _GAP, 3), _BACKGROUND, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * cell_height + _GAP, (index % columns) * cell_width + _GAP
        enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
        canvas[top : top + height * scale, left : left + width * scale] = enlarged
    return Image.fromarray(canvas)


def class_rows(labels: Int[np.ndarray, " n"], columns: int, rows: int) -> Int[np.ndarray, "r c"]:
    """Return the first ``columns`` positions of each of the first ``rows`` classes present; -1 where one has fewer.

    Data of a single class fills all the rows.
    """
    classes = np.unique(labels)[:rows]
    if len(classes) == 1:
        found = np.nonzero(labels == classes[0])[0][: columns * rows]
        places = np.full((-(-len(found) // columns), columns), -1, dtype=np.int64)
        places.reshape(-1)[: len(found)] = found
        return places
    places = np.full((len(classes), columns), -1, dtype=np.int64)
    for row, label in zip(places, classes, strict=True):
        found = np.nonzero(labels == label)[0][:columns]
        row[: len(found)] = found
    return places


def save_png(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, atomically."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
