"""Pictures of many images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reals.apps.grid import class_rows, image_grid, save_png


def test_grid_is_row_major_and_enlarged() -> None:
    images = np.stack([np.full((2, 3, 3), value, dtype=np.uint8) for value in (10, 20, 30)])
    pixels = np.asarray(image_grid(images, columns=2, scale=2))
    assert pixels.shape == (2 * (4 + 2) + 2, 2 * (6 + 2) + 2, 3)
    assert (pixels[2:6, 2:8] == 10).all()
    assert (pixels[2:6, 10:16] == 20).all()
    assert (pixels[8:12, 2:8] == 30).all()
    assert (pixels[8:12, 10:16] == 255).all()
    assert (pixels[:2] == 255).all()


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="a grid needs images"):
        image_grid(np.zeros((0, 2, 2, 3), dtype=np.uint8), columns=1)


def test_class_rows() -> None:
    labels = np.array([2, 0, 2, 0, 2, 1])
    assert class_rows(labels, columns=2, rows=3).tolist() == [[1, 3], [5, -1], [0, 2]]
    assert class_rows(labels, columns=3, rows=2).tolist() == [[1, 3, -1], [5, -1, -1]]


def test_a_single_class_fills_the_rows() -> None:
    assert class_rows(np.zeros(5, dtype=np.int64), columns=2, rows=2).tolist() == [[0, 1], [2, 3]]
    assert class_rows(np.zeros(3, dtype=np.int64), columns=2, rows=2).tolist() == [[0, 1], [2, -1]]


def test_png_is_written(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", image_grid(np.zeros((1, 2, 2, 3), dtype=np.uint8), columns=1))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (6, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
