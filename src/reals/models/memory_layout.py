"""How a convolutional network's tensors lie in memory where it is trained on a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PlainLayoutGroupNorm(nn.GroupNorm):
    """Group normalisation that computes on plain tensors whatever layout it is given, and returns channels last.

    torch 2.13's backward pass of it on a CPU is ten times slower on channels-last bfloat16 than on a plain copy
    (``python benchmarks/memory_layout.py``), while convolutions are faster on channels last.
    """

    @classmethod
    def of(cls, norm: nn.GroupNorm) -> "PlainLayoutGroupNorm":
        """Return a layer that shares the parameters of ``norm``."""
        plain = cls(norm.num_groups, norm.num_channels, norm.eps, affine=False)
        plain.affine, plain.weight, plain.bias = norm.affine, norm.weight, norm.bias
        return plain

    def forward(self, input: Float[Tensor, "b c *dims"]) -> Float[Tensor, "b c *dims"]:
        """Normalise."""
        normalised = super().forward(input.contiguous())
        return normalised.contiguous(memory_format=torch.channels_last) if input.dim() == 4 else normalised


def arrange_for_training(network: nn.Module, device: torch.device) -> None:
    """On a CPU, let ``network`` work on the layout in which training is fastest; its weights stay as they are.

    Convolutions follow their input, so it is enough that normalisations return channels last.
    """
    if device.type != "cpu":
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.GroupNorm:
                setattr(parent, name, PlainLayoutGroupNorm.of(child))
