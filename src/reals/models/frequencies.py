"""From one set of time frequencies to another, as far as the first layer after the sinusoid can make up for it.

diffusers' DiT spaces its 128 angular frequencies over 127 intervals, SiT's and DiT's own code over 128. On [0, 1] the
sinusoids of either set span numerically the same functions, so the layer can be converted to float32's accuracy. On
0..999 they do not: the best layer leaves less than half of the error that copying it makes.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from reals.models.embeddings import angular_frequencies

_CUTOFF = {False: 1e-8, True: 1e-2}
"""Singular values below this share are dropped. On integer times small ones buy little and cost large weights, which
half precision rounds coarsely."""


def refit_time_layer(
    weight: Float[Tensor, "width 256"], *, of: int, to: int, integer_times: bool
) -> Float[Tensor, "width 256"]:
    """Return the first layer after the sinusoid for frequencies shifted by ``to`` that best equals one for ``of``.

    The fit is the least-squares solution, in float64, over the times a network sees: 0 to 999, or [0, 1] with a margin
    for solvers that look beyond the end.
    """
    if of == to:
        return weight
    times = torch.arange(1000.0) if integer_times else torch.linspace(-0.1, 1.5, 1000)
    wanted, available = _sinusoid(times.double(), of), _sinusoid(times.double(), to)
    mixing = torch.linalg.pinv(available, rtol=_CUTOFF[integer_times]) @ wanted
    return (weight.double() @ mixing.T).to(weight.dtype)


def _sinusoid(times: Float[Tensor, " n"], shift: int) -> Float[Tensor, "n 256"]:
    angles = times[:, None] * angular_frequencies(shift).double()
    return torch.cat([angles.cos(), angles.sin()], dim=1)
