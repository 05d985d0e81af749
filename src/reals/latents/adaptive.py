"""The adaptive weight of a loss: as strong at one layer as another loss is (Esser et al., 2012.09841, Eq. 7).

Public trainers find the two gradients by running both losses backwards an extra time in every step. Here they are read
off while the one backward pass of the step goes by, and the weight takes effect in the next step. So it costs no pass,
sees all micro-batches and processes, and is the same however a batch is cut.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from reals.runtime import dist

# Of the denominator, as in latent diffusion.
_EPSILON = 1e-4

Observer = Callable[[Tensor], None]
"""Told a gradient as it passes."""


class AdaptiveWeight(nn.Module):
    """‖∇ reference loss‖ / (‖∇ loss‖ + 1e-4) at one layer, in the step before; 0 until both have been seen.

    The weight is a buffer, saved with the training state, so that a resumed run goes on exactly.
    """

    weight: Tensor

    def __init__(self, largest: float, *, adaptive: bool = True):
        """Clamp to ``largest``; without ``adaptive`` the weight is 1, and no gradient need be noted."""
        super().__init__()
        self._largest = largest
        self.adaptive = adaptive
        self.register_buffer("weight", torch.zeros(()))
        self._sums: dict[str, Tensor] = {}

    def current(self) -> Tensor:
        """Return the weight of this step, which later ones do not change."""
        return self.weight.clone() if self.adaptive else torch.ones_like(self.weight)

    def note(self, name: str, gradient: Tensor) -> None:
        """Add one micro-batch's gradient of the "reference" or of the "term"."""
        gradient = gradient.detach().float()
        self._sums[name] = self._sums[name] + gradient if name in self._sums else gradient

    @torch.no_grad()
    def settle(self) -> None:
        """Find the weight from the gradients noted since the last call, on all processes; each must call this."""
        reference, term = self._sums.pop("reference", None), self._sums.pop("term", None)
        if reference is None or term is None:
            return
        if dist.world_size() > 1:
            for gradient in (reference, term):
                torch.distributed.all_reduce(gradient)
        ratio = reference.norm() / (term.norm() + _EPSILON)
        # A broken step is not taken by the optimisers either.
        self.weight.copy_(torch.where(torch.isfinite(ratio), ratio.clamp(0.0, self._largest), self.weight))


def observed(tensor: Tensor, observer: Observer) -> Tensor:
    """Return the tensor; ``observer`` is told the gradient of whatever is computed from what is returned."""
    seen = tensor.view_as(tensor)
    if seen.requires_grad:
        seen.register_hook(observer)
    return seen


def weighed(value: Float[Tensor, ""], factor: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``factor`` times a loss whose gradient :func:`weighing` multiplies where it leaves the loss."""
    return _WeighValue.apply(value, factor)  # pyright: ignore[reportReturnType]


def weighing(tensor: Tensor, factor: Float[Tensor, ""], observer: Observer) -> Tensor:
    """Return the tensor; gradients are shown to ``observer``, then multiplied by ``factor``.

    Together with :func:`weighed`: the loss and its gradient have the factor, and the gradient is seen without it, also
    where the factor is 0.
    """
    return observed(_WeighGradient.apply(tensor, factor), observer)  # pyright: ignore[reportArgumentType]


class _WeighValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        return value * factor

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _WeighGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None


class LastLayer:
    """The input of a convolution in the latest forward pass, from which its weight's gradient can be found."""

    def __init__(self, convolution: nn.Conv2d):
        self._convolution = convolution
        self._input: Tensor | None = None
        convolution.register_forward_pre_hook(self._keep)

    def _keep(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._input = inputs[0].detach()

    def weight_gradient(self, output_gradient: Float[Tensor, "b c h w"]) -> Float[Tensor, "c d k l"]:
        """Return ∂L/∂weight, float32, from ∂L/∂output of that forward pass."""
        if self._input is None:
            raise ValueError("the convolution has not been run yet")
        layer = self._convolution
        stride, padding = cast(int, layer.stride), cast(int, layer.padding)
        with torch.autocast(output_gradient.device.type, enabled=False):
            return conv2d_weight(self._input.float(), layer.weight.shape, output_gradient.float(), stride, padding)
