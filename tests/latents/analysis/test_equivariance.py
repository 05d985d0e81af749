from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reals.latents.analysis.equivariance import TRANSFORMS, Scale, equivariance_error


def _pixels(side: int = 16) -> Tensor:
    return torch.rand(6, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _error(encode: Callable[[Tensor], Tensor], name: str, pixels: Tensor) -> Tensor:
    latents = encode(pixels)
    return equivariance_error(encode, TRANSFORMS[name], pixels, latents, latents.mean((0, 2, 3)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_encoder_of_single_pixels_is_equivariant(name: str) -> None:
    mix = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])

    def encode(pixels: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", mix, pixels) + 3.0

    assert _error(encode, name, _pixels()).abs().max() < 1e-5


def test_a_position_code_does_not_turn_with_the_image() -> None:
    ramp = torch.linspace(-1, 1, 4)

    def encode(pixels: Tensor) -> Tensor:
        side = pixels.shape[-1] // 4
        return functional.avg_pool2d(pixels, 4)[:, :1] * 0.0 + ramp[:side]

    # Turned by a half the ramp is its negative: the difference is twice the ramp. Turned by a quarter it is unrelated.
    assert _error(encode, "turned_180", _pixels()) == pytest.approx(torch.full((6,), 2.0), abs=1e-5)
    assert _error(encode, "turned_90", _pixels()) == pytest.approx(torch.full((6,), 2**0.5), abs=1e-5)


def test_an_offset_common_to_all_latents_does_not_shrink_the_error() -> None:
    def shifted(by: float) -> Tensor:
        noise = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(1))
        calls = iter((noise, noise.flip(0)))
        return _error(lambda pixels: next(calls) + by, "mirrored", _pixels())

    torch.testing.assert_close(shifted(0.0), shifted(1000.0), rtol=1e-3, atol=1e-3)
    assert shifted(0.0).mean() == pytest.approx(2**0.5, abs=0.25)


def test_which_grids_can_be_shrunk() -> None:
    assert [Scale(1, 2).fits(side) for side in (8, 7, 2)] == [True, False, False]
    assert [Scale(3, 4).fits(side) for side in (8, 6, 4)] == [True, False, True]
    assert Scale(3, 4)(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 6, 6)
