"""What a Gaussian diffusion network minimises: the error of the noise, and a bound that teaches the variance."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reals.diffusion.gaussian.bound import discretised_surprise, gaussian_divergence
from reals.diffusion.gaussian.schedule import Schedule
from reals.diffusion.gaussian.variance import LearnedRange, Variance, interpolate_log_variance, split_output
from reals.diffusion.interpolant import expand
from reals.diffusion.quarters import QUARTERS, quarter_shares


class GaussianObjective(nn.Module):
    """Mean squared error of the predicted noise, plus, for a learned variance, the variational bound in bits.

    The hybrid objective of Nichol & Dhariwal (2021, Eq. 16) as DiT has it: at each drawn timestep the bound's own term,
    weighted by 1, in which the predicted mean is a constant. It is a function of its inputs and the network.
    """

    _coefficients: Float[Tensor, "rows steps"]

    def __init__(self, network: nn.Module, schedule: Schedule, variance: Variance):
        """Train ``network``, called as ``network(x, t, labels)`` with the timesteps as floats."""
        super().__init__()
        self.network = network
        self.variance = variance
        self.steps = len(schedule.timesteps)
        # In float32, one row per coefficient, on the network's device; not saved, as the settings determine them.
        coefficients = torch.stack(
            [
                schedule.alpha_bar.sqrt(),
                (1 - schedule.alpha_bar).sqrt(),
                schedule.posterior_data_weight * schedule.data_from_noise,
                schedule.posterior_log_variance,
                schedule.betas.log(),
            ]
        )
        self.register_buffer("_coefficients", coefficients.float(), persistent=False)

    def timesteps(self, quantile: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
        """Return timesteps uniform on 0 to T - 1 for ``quantile`` uniform on [0, 1]."""
        # A quantile drawn in float64 may be 1 in float32.
        return (quantile * self.steps).long().clamp_(max=self.steps - 1)

    def per_sample(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        timesteps: Int[Tensor, " b"],
    ) -> dict[str, Float[Tensor, " b"]]:
        """Return each sample's terms at given noise and timestep, in float32: ``mse`` and, if learned, ``vb``.

        Raises:
            UserError: the network predicts another number of channels than the kind of variance needs.
        """
        signal, spread, weight, low, high = (expand(row, latents) for row in self._coefficients[:, timesteps])
        point = signal * latents + spread * noise
        output = self.network(point, timesteps.float(), labels)
        predicted, values = split_output(output, latents.shape[1], self.variance)
        terms = {"mse": (predicted - noise).square().flatten(1).mean(1)}
        if isinstance(self.variance, LearnedRange):
            log_variance = interpolate_log_variance(values, low, high)
            # True minus predicted mean of the reverse step. At timestep 0 the true mean is the data itself.
            difference = weight * (predicted.detach() - noise)
            divergence = gaussian_divergence(difference, low, log_variance).flatten(1).mean(1)
            surprise = discretised_surprise(latents, difference, log_variance).flatten(1).mean(1)
            terms["vb"] = torch.where(timesteps == 0, surprise, divergence)
        return terms

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        quantile: Float[Tensor, " b"],
    ) -> dict[str, Tensor]:
        """Return the loss over a batch of normalised latents, its parts, and its share in each quarter of the process.

        ``mse`` is the error of the noise; ``vb`` (learned variance only) the bound's term in bits per element.
        ``loss_noise0.25`` is an unbiased estimate of the loss at noise levels t/T in [0.25, 0.5), and so on; the four
        average to ``loss`` and are finite even for a batch without a timestep in that quarter.

        Args:
            latents: data.
            labels: one class per sample.
            noise: standard normal.
            quantile: uniform on [0, 1]; decides the timestep.
        """
        timesteps = self.timesteps(quantile)
        terms = self.per_sample(latents.float(), labels, noise.float(), timesteps)
        total = terms["mse"]
        if isinstance(self.variance, LearnedRange):
            total = total + self.variance.bound_weight * terms["vb"]
        losses = {"loss": total.mean()}
        losses |= {name: term.detach().mean() for name, term in terms.items()}
        return losses | quarter_shares(total, timesteps * QUARTERS // self.steps, "loss_noise")
