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
    def update(self) -> None:
        """Move the average towards the present weights; one fused call, not a loop over tensors."""
        weights = [local(weight.detach()).float() for weight in self._weights.values()]
        averages = [local(average) for average in self.average.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    def whole(self) -> dict[str, Tensor]:
        """Return the average, gathered from all processes; each of them must call this."""
        return {name: whole(tensor) for name, tensor in self.average.items()}

    def load(self, average: dict[str, Tensor]) -> None:
        """Replace the average by a saved one of the same names."""
        for name, tensor in self.average.items():
            tensor.copy_(like(average[name], tensor))
