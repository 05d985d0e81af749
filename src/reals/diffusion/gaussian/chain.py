"""The chain that a sampler walks back: a network's output, read as noise and variance, and the coefficients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from reals.diffusion.gaussian.schedule import Schedule
from reals.diffusion.gaussian.variance import Variance, split_output
from reals.diffusion.guidance import Output


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """What a sampler needs of a diffusion process; made by ``GaussianDiffusion.chain``."""

    output: Output
    """``output(x, t)`` of the network, guidance included; ``t`` holds one timestep per sample, on the CPU."""
    schedule: Schedule
    """The coefficients, at all timesteps or at those that are visited."""
    variance: Variance
    """What the reverse step's variance is."""

    def respaced(self, timesteps: Sequence[int]) -> "Chain":
        """Return the chain over some of the timesteps."""
        return replace(self, schedule=self.schedule.respaced(timesteps))

    def predict(
        self, x: Float[Tensor, "b c *dims"], index: int
    ) -> tuple[Float[Tensor, "b c *dims"], Float[Tensor, "b values *dims"]]:
        """Return the noise that the network sees in ``x`` at ``index``, and its values of a learned variance.

        Raises:
            UserError: the network predicts another number of channels than the kind of variance needs.
        """
        # The network is told the trained process's timestep. It is on the CPU for the sake of guidance: see guide().
        t = torch.full((len(x),), float(self.schedule.timesteps[index]), device="cpu")
        return split_output(self.output(x, t), x.shape[1], self.variance)

    def data(
        self, x: Float[Tensor, "b c *dims"], noise: Float[Tensor, "b c *dims"], index: int, clip: float | None
    ) -> Float[Tensor, "b c *dims"]:
        """Return the data that ``x`` and its ``noise`` determine, clamped to [-clip, clip] if that is asked for."""
        schedule = self.schedule
        data = schedule.data_from_state[index].item() * x - schedule.data_from_noise[index].item() * noise
        return data if clip is None else data.clamp(-clip, clip)
