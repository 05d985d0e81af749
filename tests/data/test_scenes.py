"""Rendered scenes: repeatable one by one, balanced, with masks and depth that agree with the pictures."""

import numpy as np
import pytest

from reals.data.scenes import SCENE_CLASSES, Scenes, render

_MEANS_OF_FIRST_TEN = np.array(
    [
        [188.5, 194.3, 186.0],
        [150.8, 158.2, 176.5],
        [123.2, 151.6, 142.1],
        [161.5, 174.3, 170.6],
        [149.9, 155.3, 153.2],
        [200.8, 209.5, 211.0],
        [154.6, 193.9, 181.7],
        [193.5, 177.9, 175.1],
        [156.7, 170.2, 162.6],
        [181.2, 184.9, 185.5],
    ]
)


@pytest.fixture(scope="module")
def many() -> Scenes:
    """Two hundred scenes, twenty of each class."""
    return render(np.arange(200), 32, seed=1)


@pytest.mark.parametrize("size", [32, 50, 64])
def test_each_scene_is_independent_of_its_batch(size: int) -> None:
    together = render(np.arange(24), size, seed=3)
    for index in (0, 4, 7, 8, 13, 19, 23):
        alone = render(np.array([index]), size, seed=3)
        np.testing.assert_array_equal(alone.images[0], together.images[index])
        np.testing.assert_array_equal(alone.masks[0], together.masks[index])
        np.testing.assert_array_equal(alone.depth[0], together.depth[index])


def test_order_and_repetition_of_indices_do_not_matter() -> None:
    order = np.array([12, 3, 3, 40, 0])
    picked = render(order, 32)
    whole = render(np.arange(41), 32)
    np.testing.assert_array_equal(picked.images, whole.images[order])
    np.testing.assert_array_equal(picked.labels, whole.labels[order])


def test_the_seed_and_the_index_change_the_scene() -> None:
    first, again, other = render(np.arange(10), 32, 0), render(np.arange(10), 32, 0), render(np.arange(10), 32, 1)
    np.testing.assert_array_equal(first.images, again.images)
    assert (np.abs(first.images.astype(int) - other.images).mean(axis=(1, 2, 3)) > 5).all()
    next_ten = render(np.arange(10, 20), 32, 0)
    assert (np.abs(first.images.astype(int) - next_ten.images).mean(axis=(1, 2, 3)) > 5).all()


def test_pictures_are_those_that_caches_were_made_from() -> None:
    """If this fails on purpose, raise ``_VERSION`` in source.py and record the new means."""
    means = render(np.arange(10), 32).images.mean(axis=(1, 2))
    np.testing.assert_allclose(means, _MEANS_OF_FIRST_TEN, atol=0.5)


def test_shapes_types_and_balance(many: Scenes) -> None:
    assert many.images.shape == (200, 32, 32, 3)
    assert many.images.dtype == np.uint8
    assert many.masks.dtype == np.bool_
    assert many.depth.dtype == np.float32
    assert len(SCENE_CLASSES) == len(set(SCENE_CLASSES)) == 10
    assert np.bincount(many.labels, minlength=10).tolist() == [20] * 10
    assert many.labels[:12].tolist() == [*range(10), 0, 1]


def test_no_indices_give_no_scenes() -> None:
    assert render(np.arange(0), 32).images.shape == (0, 32, 32, 3)


def test_every_object_is_visible_and_leaves_room(many: Scenes) -> None:
    area = many.masks.mean(axis=(1, 2))
    assert area.min() > 0.04
    assert area.max() < 0.65
    for label in range(10):
        assert 0.10 < area[many.labels == label].mean() < 0.45, SCENE_CLASSES[label]
    # Objects lie inside the frame, give or take a tip.
    border = np.ones((32, 32), dtype=bool)
    border[1:-1, 1:-1] = False
    assert (many.masks & border).any(axis=(1, 2)).mean() < 0.15


def test_depth_is_finite_positive_and_jumps_towards_the_viewer_at_the_top_of_the_object(many: Scenes) -> None:
    assert np.isfinite(many.depth).all()
    assert many.depth.min() > 0.5
    assert many.depth.max() < 40.0
    inside, outside = many.masks[:, 1:], ~many.masks[:, :-1]
    top = inside & outside
    assert (many.depth[:, 1:][top] < many.depth[:, :-1][top] + 1e-3).mean() > 0.999


def test_resolutions_show_the_same_scene() -> None:
    large, small = render(np.arange(30), 64), render(np.arange(30), 32)
    shrunk = large.images.reshape(30, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small.images).mean() < 3.0
    assert np.abs(shrunk - small.images).mean(axis=(1, 2, 3)).max() < 7.0
    covered = large.masks.reshape(30, 32, 2, 32, 2).mean(axis=(2, 4))
    assert (np.abs(covered - small.masks) <= 0.5).mean() > 0.995


def _fill(mask: np.ndarray) -> float:
    """Fraction of its bounding box that a silhouette covers."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return float(mask.sum() / ((rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)))


def _has_hole(mask: np.ndarray) -> bool:
    """Whether some background is enclosed, found by flooding from the border."""
    outside = np.zeros(np.add(mask.shape, 2), dtype=bool)
    free = np.pad(~mask, 1, constant_values=True)
    outside[0, 0] = True
    while True:
        grown = outside.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                grown |= np.roll(outside, step, axis)
        grown &= free
        if (grown == outside).all():
            return bool((free & ~outside).any())
        outside = grown


def test_silhouettes_tell_classes_apart() -> None:
    scenes = render(np.arange(160), 48, seed=2)
    fill = {name: [_fill(m) for m in scenes.masks[scenes.labels == k]] for k, name in enumerate(SCENE_CLASSES)}
    np.testing.assert_allclose(fill["sphere"], np.pi / 4, atol=0.05)
    for pointed in ("cone", "pyramid", "octahedron", "star"):
        assert np.mean(fill[pointed]) < 0.66 < np.mean(fill["cube"]), pointed
    holes = {name: [_has_hole(m) for m in scenes.masks[scenes.labels == k]] for k, name in enumerate(SCENE_CLASSES)}
    assert np.mean(holes.pop("torus")) > 0.8
    # The arms of a cross may enclose a pixel.
    assert np.mean(holes.pop("cross")) < 0.2
    assert not any(any(found) for found in holes.values())


def test_colours_and_light_vary_and_objects_stand_out(many: Scenes) -> None:
    images = many.images.astype(np.float64)
    colour = np.array([image[mask].mean(axis=0) for image, mask in zip(images, many.masks, strict=True)])
    around = np.array([image[~mask].mean(axis=0) for image, mask in zip(images, many.masks, strict=True)])
    assert (colour.std(axis=0) > 35).all()
    assert (around.std(axis=0) > 15).all()
    assert (np.abs(colour - around).max(axis=1) > 20).mean() > 0.9
    brightness = images.mean(axis=(1, 2, 3))
    assert brightness.min() > 60
    assert brightness.max() < 225
    # Neither crushed to black nor burnt to white.
    assert (images.max(axis=-1) < 8).mean() < 0.01
    assert (images.min(axis=-1) > 252).mean() < 0.01


@pytest.mark.parametrize(
    ("indices", "size", "message"),
    [
        (np.arange(3), 4, "size 4: scenes are rendered at 16 to 1024 pixels"),
        (np.arange(3), 5000, "size 5000"),
        (np.array([2, -1]), 32, "-1 is negative"),
        (np.array([0.5]), 32, "expected one row of integers, found float64"),
        (np.zeros((2, 2), dtype=np.int64), 32, "expected one row of integers"),
    ],
)
def test_nonsense_is_refused(indices: np.ndarray, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(indices, size)
