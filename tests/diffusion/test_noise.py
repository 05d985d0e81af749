"""Noise that belongs to an image."""

import pytest
import torch

from reals.diffusion.noise import PerImageNoise


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    alone = PerImageNoise(5, [3])
    together = PerImageNoise(5, [1, 3, 7])
    for shape in ((2, 4, 4), (1, 3)):
        assert torch.equal(together(shape)[1:2], alone(shape))


def test_noise_differs_by_image_seed_and_draw() -> None:
    noise = PerImageNoise(5, [1, 2])
    first, second = noise((4, 8, 8)), noise((4, 8, 8))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert not torch.equal(PerImageNoise(6, [1, 2])((4, 8, 8)), first)
    assert first.std().item() == pytest.approx(1.0, abs=0.15)
