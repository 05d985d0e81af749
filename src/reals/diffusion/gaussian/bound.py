"""The terms of the variational bound on the data's likelihood, in bits (Ho et al., 2020, Eq. 5 and 13)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# As in the originals: grey levels of images on [-1, 1], although here the data are latents.
_HALF_BIN = 1 / 255
_EDGE = 0.999
_SMALLEST_PROBABILITY = 1e-12


def gaussian_divergence(
    difference: Float[Tensor, " b *dims"],
    true_log_variance: Float[Tensor, " b *ones"],
    log_variance: Float[Tensor, " b *dims"],
) -> Float[Tensor, " b *dims"]:
    """Return KL(q ‖ p) of two Gaussians whose means differ by ``difference``, in bits per element."""
    log_ratio = true_log_variance - log_variance
    return (log_ratio.exp() - log_ratio - 1 + difference.square() * (-log_variance).exp()) / (2 * math.log(2))


def discretised_surprise(
    data: Float[Tensor, " b *dims"], difference: Float[Tensor, " b *dims"], log_variance: Float[Tensor, " b *dims"]
) -> Float[Tensor, " b *dims"]:
    """Return -log₂ of a Gaussian's probability of the grey level around ``data``, whose mean is data - ``difference``.

    The bins are 2/255 wide, and the outermost ones reach to ±∞. Latents have no grey levels; the term is kept, at one
    timestep in a thousand, because DiT was trained with it. So is the approximate distribution function.
    """
    precision = (-0.5 * log_variance).exp()
    up_to_upper = _normal_distribution(precision * (difference + _HALF_BIN))
    up_to_lower = _normal_distribution(precision * (difference - _HALF_BIN))
    probability = torch.where(
        data < -_EDGE, up_to_upper, torch.where(data > _EDGE, 1 - up_to_lower, up_to_upper - up_to_lower)
    )
    return -probability.clamp(min=_SMALLEST_PROBABILITY).log2()


def _normal_distribution(x: Float[Tensor, " b *dims"]) -> Float[Tensor, " b *dims"]:
    """Return an approximation of the normal distribution function, within 3e-4 of it (Page, 1977)."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
