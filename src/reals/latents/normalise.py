"""The affine map between raw latents and what a generator sees: z_n = (z - shift) · scale.

This is exactly what diffusers means by ``shift_factor`` and ``scaling_factor``. The two numbers live in the
autoencoder's ``config.json`` and nowhere else.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from reals.latents.statistics import LatentStatistics
from reals.models.autoencoder import AutoencoderKL
from reals.runtime.errors import UserError

# SD-VAE's raw latents (ReaLS, Eq. 7) and the factor that brings them to about unit deviation.
SD_VAE_MEAN = 0.292873
SD_VAE_MAX = 68.317589
SD_VAE_MIN = -65.730583
SD_VAE_SCALING = 0.18215


@dataclass(frozen=True, kw_only=True)
class LatentNormalisation:
    """One shift and one scale for all channels."""

    shift: float
    """Subtracted from raw latents."""
    scale: float
    """Then multiplied; not 0."""

    def __post_init__(self) -> None:
        if self.scale == 0.0:
            raise ValueError("scale is 0; the map could not be inverted")

    def normalise(self, raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return (z - shift) · scale."""
        return (raw - self.shift) * self.scale

    def denormalise(self, normalised: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return z_n / scale + shift, the inverse."""
        return normalised / self.scale + self.shift

    def attach(self, autoencoder: AutoencoderKL) -> None:
        """Make this the autoencoder's normalisation: saving it saves the two numbers."""
        autoencoder.register_to_config(
            scaling_factor=self.scale, shift_factor=self.shift, latents_mean=None, latents_std=None
        )

    @classmethod
    def of(cls, autoencoder: AutoencoderKL) -> "LatentNormalisation":
        """Read an autoencoder's normalisation from its configuration; an absent shift is 0.

        Raises:
            UserError: the configuration normalises each channel by itself.
        """
        config = autoencoder.config
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise UserError(
                "the autoencoder's config.json sets latents_mean or latents_std, per channel; "
                "only scaling_factor and shift_factor are supported: normalise it again with reals"
            )
        return cls(shift=float(config.get("shift_factor") or 0.0), scale=float(config["scaling_factor"]))


@dataclass(frozen=True, kw_only=True)
class MinMax:
    """Onto SD-VAE's range and mean (ReaLS, Eq. 7), then times SD-VAE's scaling factor; the paper's choice.

    z' = (z - mean) / (max - min) · (max_sd - min_sd) + mean_sd. It centres on the mean, so it is no map onto [0, 1].
    """

    factor: float = SD_VAE_SCALING
    """What Eq. 7's result is multiplied by. The paper does not say; 0.18215 is what follows SD-VAE elsewhere."""

    def __post_init__(self) -> None:
        if self.factor <= 0.0:
            raise ValueError(f"factor is {self.factor}; it must be positive")

    def from_statistics(self, statistics: LatentStatistics) -> LatentNormalisation:
        """Return the map as one shift and one scale.

        Raises:
            UserError: the latents are constant.
        """
        _refuse_constant(statistics)
        gain = (SD_VAE_MAX - SD_VAE_MIN) / (statistics.max - statistics.min)
        return LatentNormalisation(shift=statistics.mean - SD_VAE_MEAN / gain, scale=gain * self.factor)


@dataclass(frozen=True, kw_only=True)
class Standardise:
    """To mean 0 and standard deviation 1, or another deviation."""

    std: float = 1.0
    """Standard deviation of the normalised latents."""

    def __post_init__(self) -> None:
        if self.std <= 0.0:
            raise ValueError(f"std is {self.std}; it must be positive")

    def from_statistics(self, statistics: LatentStatistics) -> LatentNormalisation:
        """Return the map as one shift and one scale.

        Raises:
            UserError: the latents are constant.
        """
        _refuse_constant(statistics)
        return LatentNormalisation(shift=statistics.mean, scale=self.std / statistics.std)


def _refuse_constant(statistics: LatentStatistics) -> None:
    if statistics.std <= 0.0 or statistics.max <= statistics.min:
        raise UserError("all latents have the same value: the autoencoder has learnt nothing; check its training log")
