"""What the generator minimises: flow matching, the regression of a network on the field of a path."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor, nn

from reals.diffusion.flow import Flow
from reals.diffusion.interpolant import GVP, VP, Linear
from reals.diffusion.interval import sampling_interval, training_interval
from reals.diffusion.prediction import Prediction, VelocityPrediction
from reals.diffusion.quarters import QUARTERS, quarter_shares
from reals.diffusion.time_sampling import TimeDistribution, Uniform
from reals.diffusion.weighting import NoWeighting, Weighting


@dataclass(frozen=True, kw_only=True)
class FlowMatching:
    """Flow matching on a path between noise and data (SiT, section 2; Lipman et al., 2023)."""

    interpolant: Linear | GVP | VP = field(default_factory=Linear)
    """The path from noise to data."""
    prediction: Prediction = field(default_factory=VelocityPrediction)
    """What the network's output means."""
    weighting: Weighting = field(default_factory=NoWeighting)
    """How much each time counts; for scores and noise only."""
    times: TimeDistribution = field(default_factory=Uniform)
    """Which times are trained on."""
    train_margin: float | None = None
    """Distance of training times from the ends of the path; None keeps SiT's, 0 where nothing is infinite."""
    sample_margin: float | None = None
    """Distance from the ends of the path when samples are made; None keeps SiT's, 0 where nothing is infinite."""

    def __post_init__(self) -> None:
        if isinstance(self.prediction, VelocityPrediction) and not isinstance(self.weighting, NoWeighting):
            raise ValueError(
                f"weighting is {type(self.weighting).__name__}, but a velocity's loss is not weighted; "
                "use NoWeighting, or predict the noise or the score"
            )
        self.training_interval()
        self.sampling_interval()

    def training_interval(self) -> tuple[float, float]:
        """Return the first and the last time that is trained at."""
        return training_interval(self.interpolant, self.prediction, self.train_margin)

    def sampling_interval(self) -> tuple[float, float]:
        """Return the first and the last time at which the trained field may be evaluated."""
        return sampling_interval(self.interpolant, self.prediction, self.sample_margin)

    def build(self, network: nn.Module) -> "FlowObjective":
        """Return the objective that trains ``network``."""
        return FlowObjective(network, self)

    def flow(self, output: Callable[[Tensor, Tensor], Tensor]) -> Flow:
        """Return the field to integrate for a network trained by this objective.

        Args:
            output: ``output(x, t)``, the network's prediction in whatever it predicts, guided or not: guidance is
                linear and the conversion affine, so guided predictions convert to guided velocities. It is given
                float32 and may answer in half precision; the conversion is computed in the precision of ``x``.
        """

        def velocity(x: Float[Tensor, " b *dims"], t: Float[Tensor, " b"]) -> Float[Tensor, " b *dims"]:
            predicted = output(x.float(), t.float()).to(x.dtype)
            return self.prediction.velocity(self.interpolant, predicted, x, t.to(x.device, non_blocking=True))

        start, end = self.sampling_interval()
        return Flow(velocity=velocity, interpolant=self.interpolant, start=start, end=end)


class FlowObjective(nn.Module):
    """Mean squared error of ``network(x_t, t, label)`` as a prediction of the path's velocity, score or noise.

    Noise and times are arguments, so that they can be functions of the image and the step alone.
    """

    def __init__(self, network: nn.Module, config: FlowMatching):
        """Train ``network``, called as ``network(x, t, labels)``."""
        super().__init__()
        self.network = network
        self.config = config

    def per_sample(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return the weighted mean squared error of each sample at given noise and time, in float32."""
        path = self.config.interpolant
        output = self.network(path.interpolate(noise, latents, t), t, labels).float()
        error = self.config.prediction.error(path, output, noise, latents, t)
        return self.config.weighting(path, t) * error.square().flatten(1).mean(1)

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        quantile: Float[Tensor, " b"],
    ) -> dict[str, Tensor]:
        """Return the loss over a batch of normalised latents, and its share in each quarter of [0, 1].

        ``loss_t0.25`` is the part of the loss from t in [0.25, 0.5), times four, and so on; the four average to
        ``loss``. For uniform times it is an unbiased estimate of the loss in that quarter. It is finite even for a
        batch without a time in it, so that averages over steps are right.

        Args:
            latents: normalised latents.
            labels: one class per latent.
            noise: standard normal, one for each latent.
            quantile: uniform on [0, 1); where in the distribution of times each sample's time lies.
        """
        latents, noise = latents.float(), noise.float()
        t = self.config.times(quantile.float(), *self.config.training_interval())
        errors = self.per_sample(latents, labels, noise, t)
        quarter = (t.detach() * QUARTERS).long().clamp_(max=QUARTERS - 1)
        return {"loss": errors.mean(), **quarter_shares(errors, quarter, "loss_t")}
