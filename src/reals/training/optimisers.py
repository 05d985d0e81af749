"""One AdamW for each part of an objective that is trained by its own rule."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from reals.training.config import MAIN, LoopConfig, OptimiserConfig
from reals.training.ema import trainable
from reals.training.sharded import whole


class Optimisers:
    """The optimisers of an objective, by name; they step together or not at all."""

    def __init__(self, objective: nn.Module, config: LoopConfig, others: Mapping[str, OptimiserConfig]):
        """Give each of ``others`` the parameters below the objective's attribute of that name, "main" all the rest.

        Raises:
            ValueError: nothing is trained under one of the names.
        """
        self._config = config
        self.configs = {MAIN: config.optimiser, **others}
        self.parameters: dict[str, dict[str, nn.Parameter]] = {name: {} for name in self.configs}
        for name, parameter in trainable(objective).items():
            part = name.partition(".")[0]
            self.parameters[part if part in others else MAIN][name] = parameter
        for name, owned in self.parameters.items():
            if not owned:
                raise ValueError(f"the optimiser '{name}' has no parameters to train")
        self.adams = {name: self._adam(name) for name in self.configs}

    def _adam(self, name: str) -> torch.optim.AdamW:
        rule = self.configs[name]
        parameters = list(self.parameters[name].values())
        return torch.optim.AdamW(parameters, rule.learning_rate, rule.betas, weight_decay=rule.weight_decay, fused=True)

    def schedule(self, step: int) -> None:
        """Set the learning rates of ``step``."""
        for name, adam in self.adams.items():
            rule = self.configs[name]
            for group in adam.param_groups:
                group["lr"] = rule.learning_rate * rule.schedule.factor(step, self._config.steps)

    def step(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Clip and apply the gradients, then drop them, all without waiting for the device.

        If any gradient is not finite nothing is applied. That is decided on the device: AdamW's fused kernel looks at
        a flag there, as it does for a gradient scaler, and leaves weights, moments and its count of steps alone.

        Returns a scalar that is 1 if the step was taken and 0 if not, the same on every process, and each part's
        gradient norm before clipping, not finite in a step that was not taken.
        """
        norms: dict[str, Tensor] = {}
        for name, owned in self.parameters.items():
            gradients = [parameter.grad for parameter in owned.values() if parameter.grad is not None]
            if gradients:
                norms[name] = whole(nn.utils.get_total_norm(gradients))
        taken = torch.stack([torch.isfinite(norm) for norm in norms.values()]).all().float()
        for name, adam in self.adams.items():
            limit = self.configs[name].clip_norm
            if name in norms:
                if limit is not None:
                    nn.utils.clip_grads_with_norm_(self.parameters[name].values(), limit, norms[name])
                adam.found_inf = 1.0 - taken  # pyright: ignore[reportAttributeAccessIssue]
                adam.step()
            adam.zero_grad(set_to_none=True)
        return taken, {name: norm.where(taken > 0, torch.nan) for name, norm in norms.items()}
