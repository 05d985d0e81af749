import numpy as np
import pytest

from reals.data.split import held_out_mask, is_held_out
from reals.runtime.errors import UserError

KEYS = [f"class/{number}.jpg" for number in range(5000)]


def test_the_split_of_known_names_never_changes() -> None:
    # The first 8 bytes of SHA-256 over 2**64, worked out apart.
    known = {"cat/0.jpg": 0.275249706, "cat/1.jpg": 0.387848362, "cat/2.jpg": 0.540632674, "cat/3.jpg": 0.077578298}
    for key, place in known.items():
        assert is_held_out(key, place + 1e-8)
        assert not is_held_out(key, place - 1e-8)


def test_the_fraction_is_held_out() -> None:
    for fraction in (0.02, 0.2, 0.5):
        share = np.mean([is_held_out(key, fraction) for key in KEYS])
        assert abs(share - fraction) < 4 * np.sqrt(fraction * (1 - fraction) / len(KEYS))


def test_a_larger_fraction_only_adds() -> None:
    small, large = (held_out_mask(KEYS, fraction, "x") for fraction in (0.1, 0.3))
    assert not (small & ~large).any()


def test_other_images_change_nothing() -> None:
    np.testing.assert_array_equal(held_out_mask(KEYS, 0.1, "x")[:900], held_out_mask(KEYS[:900], 0.1, "x"))


def test_nothing_is_held_out_on_request() -> None:
    assert not held_out_mask(KEYS[:3], 0.0, "x").any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 5.0])
def test_impossible_fraction(fraction: float) -> None:
    with pytest.raises(UserError, match=r"is not in \[0, 1\)"):
        held_out_mask(KEYS, fraction, "x")


def test_an_empty_side_names_how_many_images_are_needed() -> None:
    with pytest.raises(UserError, match=r"x: a .* of 0.1 holds out none of its 2 images; give at least 44 images"):
        held_out_mask(KEYS[:2], 0.1, "x")
    with pytest.raises(UserError, match=r"x: a .* of 0.9 leaves none of its 3 images to train on; give at least 44"):
        held_out_mask(KEYS[:3], 0.9, "x")
