"""REPA's conventions for a SiT, and ours (REPA: Yu et al., 2025; SiT: Ma et al., 2024).

REPA runs from data (t = 0) to noise (t = 1) and predicts noise minus data, so its network and SiT's are related by
v_REPA(x, t) = -v_SiT(x, 1 - t). Both differences fit into the weights exactly.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from reals.models.embeddings import angular_frequencies

PROJECTORS = "projectors."
"""What the names of REPA's projectors, which only training needs, begin with."""

_TIME = "t_embedder.mlp.0.weight"
_OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")


def reverse_time(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the network -v(x, 1 - t) for those of v(x, t); twice gives the first ones again.

    From [cos w(1-t), sin w(1-t)] to [cos wt, sin wt] leads, for each angular frequency w, the matrix
    [[cos w, sin w], [sin w, -cos w]], a reflection. It is folded into the first layer after the sinusoid, in float64.
    """
    reversed_weights = dict(weights)
    reversed_weights[_TIME] = _reflect(weights[_TIME])
    for name in _OUTPUT:
        reversed_weights[name] = -weights[name]
    return reversed_weights


def _reflect(weight: Float[Tensor, "width 256"]) -> Float[Tensor, "width 256"]:
    # The network's own frequencies, rounded to float32, not the ideal ones.
    angles = angular_frequencies().double()
    cosines, sines = weight.double().chunk(2, dim=1)
    reflected = [cosines * angles.cos() + sines * angles.sin(), cosines * angles.sin() - sines * angles.cos()]
    return torch.cat(reflected, dim=1).to(weight.dtype)


def rename_legacy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the blocks of REPA's early checkpoints, ``decoder_blocks``, counted after ``blocks``."""
    first = count_blocks(weights)
    return {
        re.sub(r"^decoder_blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) + first}.", name): tensor
        for name, tensor in weights.items()
    }


def count_blocks(names: Iterable[str]) -> int:
    """Return how many blocks there are among the names of parameters."""
    return 1 + max((int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))), default=-1)
