from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reals.latents.analysis.equivariance import TRANSFORMS, EquivarianceResult, Scale, equivariance_error


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _error(encode: Callable[[Tensor], Tensor], name: str) -> EquivarianceResult:
    pixels, transform = _noise(6, 3, 16, 16), TRANSFORMS[name]
    return equivariance_error(encode(transform(pixels)), transform(encode(pixels)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_encoder_of_single_pixels_is_equivariant(name: str) -> None:
    mix = torch.tensor([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    result = _error(lambda pixels: torch.einsum("kc,bchw->bkhw", mix, pixels) + 3.0, name)
    assert result.raw.abs().max() < 1e-5
    assert result.centred.abs().max() < 1e-5


def test_a_position_code_does_not_turn_with_the_image() -> None:
    def encode(pixels: Tensor) -> Tensor:
        return functional.avg_pool2d(pixels, 4)[:, :1] * 1e-6 + torch.linspace(-1, 1, 4)

    # Turned by a half the ramp is its negative: the difference is twice the ramp. Turned by a quarter it is unrelated.
    assert _error(encode, "turned_180").raw == pytest.approx(torch.full((6,), 2.0), abs=1e-4)
    assert _error(encode, "turned_90").raw == pytest.approx(torch.full((6,), 2**0.5), abs=1e-4)


def test_a_template_flatters_the_raw_error_only() -> None:
    template = 100 * torch.linspace(-1, 1, 4).square()[None, :] + torch.zeros(2, 4, 4)
    content, other = _noise(200, 2, 4, 4, seed=1), _noise(200, 2, 4, 4, seed=2)
    unrelated = equivariance_error(content, other)
    assert unrelated.raw.mean() == pytest.approx(2**0.5, abs=0.05)
    assert unrelated.centred.mean() == pytest.approx(2**0.5, abs=0.05)
    flattered = equivariance_error(content + template, other + template)
    assert flattered.raw.max() < 0.1
    torch.testing.assert_close(flattered.centred, unrelated.centred, rtol=1e-4, atol=1e-4)


def test_an_offset_common_to_all_latents_does_not_shrink_the_error() -> None:
    content, other = _noise(6, 2, 4, 4, seed=1), _noise(6, 2, 4, 4, seed=2)
    plain, shifted = equivariance_error(content, other), equivariance_error(content + 1000, other + 1000)
    torch.testing.assert_close(plain.raw, shifted.raw, rtol=1e-3, atol=1e-3)


def test_one_image_has_no_template() -> None:
    with pytest.raises(ValueError, match="two images"):
        equivariance_error(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))


def test_which_grids_can_be_shrunk() -> None:
    assert [Scale(1, 2).fits(side) for side in (8, 7, 2)] == [True, False, False]
    assert [Scale(3, 4).fits(side) for side in (8, 6, 4)] == [True, False, True]
    assert Scale(3, 4)(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 6, 6)
