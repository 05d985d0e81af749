"""Gaussian noise that belongs to an image: image i is the same whatever batch, device or process it is made in."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from reals.runtime.seed import torch_generator


@runtime_checkable
class NoiseSource(Protocol):
    """Gives the next standard normal tensor of every image in a batch."""

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Float[Tensor, " b *dims"]:
        """Return noise of ``shape`` per image on ``device``."""
        ...


class PerImageNoise:
    """A stream of noise for each of the images ``indices``, a function of ``(seed, index)`` alone."""

    def __init__(self, seed: int, indices: Sequence[int]):
        """Start the streams."""
        self._generators = [torch_generator(seed, "image", int(index)) for index in indices]

    def __call__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Float[Tensor, " b *dims"]:
        """Return the next standard normal tensor of ``shape`` for each image, drawn on the CPU."""
        noise = torch.empty(len(self._generators), *shape, pin_memory=torch.device(device).type == "cuda")
        for row, generator in zip(noise, self._generators, strict=True):
            torch.randn(shape, generator=generator, out=row)
        return noise.to(device, non_blocking=True)
