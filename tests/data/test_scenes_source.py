"""Scenes behind the interface of an image source, and their colours and patterns."""

import numpy as np
import pytest

from reals.data.scenes import SCENE_CLASSES, SceneSource, render
from reals.data.scenes.colours import encode, oklch_to_linear
from reals.data.scenes.patterns import CHECKER, DOTS, GRADIENT, PLAIN, STRIPES, TILES, plane_pattern, solid_pattern
from reals.runtime.errors import UserError


def test_source_names_labels_and_renders() -> None:
    source = SceneSource(25, 32, seed=4)
    assert len(source) == 25
    assert source.location == "scenes:25:4"
    assert SceneSource(25, 32).location == "scenes:25"
    assert source.keys[12] == f"{SCENE_CLASSES[2]}/000012"
    assert len(set(source.keys)) == 25
    assert source.class_names == SCENE_CLASSES
    rendered = render(np.arange(25), 32, seed=4)
    np.testing.assert_array_equal(source.labels, rendered.labels)
    np.testing.assert_array_equal(source.load_block(3, 9), rendered.images[3:9])
    image = source.load(12)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), rendered.images[12])


def test_fingerprint_follows_what_determines_the_pictures() -> None:
    prints = {SceneSource(*arguments).fingerprint() for arguments in ((5, 32, 0), (6, 32, 0), (5, 48, 0), (5, 32, 1))}
    assert len(prints) == 4
    assert SceneSource(5, 32).fingerprint() in prints


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [(0, 32, "number of scenes from 1"), (-3, 32, "scenes:-3"), (10**9, 32, "1000000"), (5, 8, "size 8 is outside 16")],
)
def test_source_refuses_nonsense(count: int, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SceneSource(count, size)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_blocks_outside_the_source_are_refused(start: int, stop: int) -> None:
    with pytest.raises(IndexError, match="scenes:5: no scenes"):
        SceneSource(5, 32).load_block(start, stop)


def test_oklch_of_srgb_white_and_red() -> None:
    """Red's coordinates are those CSS Color 4 gives for #ff0000."""
    linear = oklch_to_linear(np.array([1.0, 0.6279554]), np.array([0.0, 0.2576833]), np.radians([0.0, 29.2338809]))
    np.testing.assert_allclose(linear, [[1.0, 1.0, 1.0], [1.0, 0.004, 0.004]], atol=1e-3)


def test_encoding_rises_and_spares_highlights() -> None:
    light = np.linspace(0.0, 3.0, 400, dtype=np.float32)
    codes = encode(light).astype(int)
    assert (np.diff(codes) >= 0).all()
    assert codes[0] == 0
    # Middle grey is sRGB's.
    assert encode(np.array([0.2140], dtype=np.float32))[0] in (127, 128)
    bright = encode(np.array([0.8, 1.0, 1.3, 1.7], dtype=np.float32)).astype(int)
    assert (np.diff(bright) > 0).all()


@pytest.mark.parametrize("kind", [PLAIN, STRIPES, CHECKER, TILES, DOTS, GRADIENT])
def test_plane_patterns_mix_two_colours(kind: int) -> None:
    u, v = np.random.default_rng(0).uniform(0.0, 4.0, (2, 5000))
    weight = plane_pattern(kind, u, v, np.full(5000, 30.0))
    assert ((weight >= 0.0) & (weight <= 1.0)).all()
    if kind == PLAIN:
        assert not weight.any()
    else:
        assert 0.04 < weight.mean() < 0.96
        assert weight.max() > 0.99
        assert weight.min() < 0.15


def test_patterns_too_fine_for_the_pixels_fade() -> None:
    u, v, w = np.random.default_rng(0).uniform(0.0, 4.0, (3, 2000))
    faint = np.full(2000, 0.05)
    for kind in (STRIPES, CHECKER):
        assert plane_pattern(kind, u, v, faint).std() < 0.04
        assert solid_pattern(kind, (u, v, w), u, faint).std() < 0.04


@pytest.mark.parametrize("kind", [STRIPES, CHECKER, DOTS])
def test_solid_patterns_mix_two_colours(kind: int) -> None:
    u, v, w = np.random.default_rng(0).uniform(0.0, 4.0, (3, 5000))
    weight = solid_pattern(kind, (u, v, w), u, np.full(5000, 30.0))
    assert weight.min() == 0.0
    assert weight.max() == 1.0
    assert 0.1 < weight.mean() < 0.9


def test_plain_scenes_vary_less() -> None:
    indices = np.arange(200)
    varied, plain = render(indices, 32, seed=3), render(indices, 32, seed=3, plain=True)
    np.testing.assert_array_equal(plain.labels, varied.labels)

    def roughness(images: np.ndarray) -> float:
        return float(np.abs(np.diff(images.astype(np.float64), axis=2)).mean())

    def off_centre(masks: np.ndarray) -> float:
        columns = np.arange(32) - 15.5
        return float(np.abs((masks * columns).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))).mean())

    assert roughness(plain.images) < 0.7 * roughness(varied.images)
    assert off_centre(plain.masks) < 0.5 * off_centre(varied.masks)
    # A lying and a standing cylinder differ more than standing ones do.
    cylinders = plain.labels == 2
    spread = [scenes.masks[cylinders].astype(np.float64).var(axis=0).sum() for scenes in (plain, varied)]
    assert spread[0] < 0.7 * spread[1]


def test_plain_scenes_have_their_own_name_and_fingerprint() -> None:
    plain, patterned = SceneSource(20, 32, seed=1, plain=True), SceneSource(20, 32, seed=1)
    assert plain.location == "plain-scenes:20:1"
    assert plain.fingerprint() != patterned.fingerprint()
    np.testing.assert_array_equal(plain.load_block(0, 2), render(np.arange(2), 32, seed=1, plain=True).images)
