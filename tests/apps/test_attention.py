"""Pictures of attention maps: colours say the sign, tints the size, frames the place."""

import numpy as np

from reals.apps.attention import PLACES, attention_picture, marked_picture, token_cells


def _photos(count: int = 2) -> np.ndarray:
    return np.full((count, 16, 16, 3), 100, dtype=np.uint8)


def test_places_become_cells_of_any_grid() -> None:
    assert token_cells(8, 8) == [(4, 4), (1, 1)]
    assert token_cells(32, 32) == [(16, 16), (6, 6)]
    assert token_cells(2, 2) == [(1, 1), (0, 0)]


def test_alike_is_orange_opposite_blue_and_unrelated_grey() -> None:
    found = np.zeros((2, 4, 4))
    found[0, 0, 0], found[0, 0, 3] = 1.0, -1.0
    picture = np.asarray(attention_picture(_photos(), [found, found])).astype(int)
    # Two columns and rows of tiles of 128 pixels, gaps of 2; cells of 32 pixels.
    assert picture.shape == (2 * 130 + 2, 2 * 130 + 2, 3)
    warm, cool, grey = picture[2 + 8, 2 + 8], picture[2 + 8, 2 + 120], picture[2 + 56, 2 + 8]
    assert warm[0] > warm[1] > warm[2]
    assert cool[2] > cool[1] > cool[0]
    assert grey[0] == grey[1] == grey[2]
    second_row = picture[2 + 130 + 8, 2 + 8]
    assert second_row[0] == second_row[2], "the second photo's map is empty"


def test_the_chosen_cell_is_framed() -> None:
    found = np.zeros((1, 4, 4))
    picture = np.asarray(attention_picture(_photos(1), [found, found])).astype(int)
    assert picture[2 + 64, 2 + 80].tolist() == [0, 0, 0], "the upper edge of cell (2, 2)"
    assert picture[2 + 80, 2 + 80].min() > 0, "its middle"
    assert picture[2, 2 + 130].tolist() == [0, 0, 0], "cell (0, 0) in the second column"


def test_photos_are_ringed_at_the_same_places() -> None:
    picture = np.asarray(marked_picture(_photos(1))).astype(int)
    assert picture.shape[1] == 2 * 130 + 2
    for column, (y, x) in enumerate(PLACES):
        tile = picture[2:130, 2 + column * 130 : 130 + column * 130]
        ys, xs = np.nonzero((tile == 255).all(2))
        assert abs(ys.mean() - y * 128) < 2
        assert abs(xs.mean() - x * 128) < 2
        assert tile[int(y * 128), int(x * 128)].tolist() == [100, 100, 100]
