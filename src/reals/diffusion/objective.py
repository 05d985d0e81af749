"""What the generator minimises: flow matching, the regression of a network on the velocity of the path."""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor, nn

from reals.diffusion.interpolant import Linear

_TIME_QUARTERS = 4


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Flow matching with times uniform on [0, 1] (SiT, section 2; Lipman et al., 2023)."""

    interpolant: Linear = field(default_factory=Linear)
    """The path from noise to data."""

    def build(self, network: nn.Module) -> "VelocityObjective":
        """Return the objective that trains ``network``."""
        return VelocityObjective(network, self)


class VelocityObjective(nn.Module):
    """Mean squared error of ``network(x_t, t, label)`` as a prediction of the path's velocity.

    Times and noise come from torch's global generator, which the training loop seeds anew at every step.
    """

    def __init__(self, network: nn.Module, config: FlowMatching):
        """Train ``network``, called as ``network(x, t, labels)``."""
        super().__init__()
        self.network = network
        self.interpolant = config.interpolant

    def per_sample(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return mean |v - u|² of each sample at given noise and time, in float32."""
        point = self.interpolant.interpolate(noise, latents, t)
        target = self.interpolant.velocity(noise, latents, t)
        error = self.network(point, t, labels).float() - target
        return error.square().flatten(1).mean(1)

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        quantile: Float[Tensor, " b"],
    ) -> dict[str, Tensor]:
        """Return the loss over a batch of normalised latents, and its share in each quarter of [0, 1].

        ``loss_t0.25`` is an unbiased estimate of the loss for t in [0.25, 0.5), and so on; the four average to
        ``loss``. It is finite even for a batch without a time in that quarter, so that averages over steps are right.
        """
        latents = latents.float()
        t = quantile
        errors = self.per_sample(latents, labels, noise, t)
        losses = {"loss": errors.mean()}
        quarter = (t.detach() * _TIME_QUARTERS).long().clamp_(max=_TIME_QUARTERS - 1)
        shares = errors.detach().new_zeros(_TIME_QUARTERS).index_add_(0, quarter, errors.detach())
        for index, share in enumerate(shares * (_TIME_QUARTERS / len(errors))):
            losses[f"loss_t{index / _TIME_QUARTERS:.2f}"] = share
        return losses
