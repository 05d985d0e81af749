"""The exponential moving average of trainable weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reals.training.sharded import like, local, whole


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that receive gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class MovingAverage:
    """``average ← decay · average + (1 − decay) · weight`` after each step, starting at the weights, in float32."""

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float):
        self.decay = decay
        self._weights = dict(weights)
        self.average = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, taken: Tensor) -> None:
        """Move the average towards the present weights if ``taken`` (a scalar on their device) is 1, not if it is 0.

        The share is a tensor so that the host need not know whether the step was taken: no wait for the device. A
        loop over tensors with it is as fast as one fused call with a number.
        """
        share = (1.0 - self.decay) * taken
        for weight, average in zip(self._weights.values(), self.average.values(), strict=True):
            local(average).lerp_(local(weight.detach()).float(), share)

    def whole(self) -> dict[str, Tensor]:
        """Return the average, gathered from all processes; each of them must call this."""
        return {name: whole(tensor) for name, tensor in self.average.items()}

    def load(self, average: dict[str, Tensor]) -> None:
        """Replace the average by a saved one of the same names."""
        for name, tensor in self.average.items():
            tensor.copy_(like(average[name], tensor))
