"""The exponential moving average of trainable weights."""

import torch
from torch import Tensor, nn


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that receive gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class MovingAverage:
    """``average ← decay · average + (1 − decay) · weight`` after each step, starting at the weights, in float32."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._weights = trainable(module)
        self.average = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights; one fused call, not a loop over tensors."""
        weights = [weight.detach().float() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self.average.values()), weights, 1.0 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, average: dict[str, Tensor]) -> None:
        """Replace the average by a saved one of the same names."""
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's trainable weights by their averages."""
        for name, weight in trainable(module).items():
            weight.copy_(self.average[name])
