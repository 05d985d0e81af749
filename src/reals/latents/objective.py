"""The training loss of stage 1 (ReaLS, Eq. 3 to 5)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.latents.align import AlignHeads, align_loss
from reals.latents.perceptual import PerceptualLoss
from reals.models.autoencoder import AutoencoderKL, decode, posterior
from reals.models.semantic import Features


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the stage 1 losses other than alignment."""

    perceptual: float = 1.0
    """λ_p, weight of the perceptual distance (Eq. 3); 0 leaves it out."""
    kl: float = 2e-5
    """λ_k, weight of the KL divergence from the posterior to the standard normal distribution (Eq. 4)."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """Over the latent's dimensions; the batch is always averaged. The paper's latents fit a sum (std about 1)."""

    def __post_init__(self) -> None:
        for name in ("perceptual", "kl"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


class AutoencoderObjective(nn.Module):
    """L = L_MSE + λ_p L_perceptual + λ_k L_KL + λ_a L_align; its parameters are what stage 1 trains."""

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        config: ObjectiveConfig,
        heads: AlignHeads | None = None,
        perceptual: PerceptualLoss | None = None,
    ):
        """Combine an autoencoder with what it is trained against.

        Args:
            autoencoder: trained.
            config: weights.
            heads: trained too. None, or a λ_a of 0, trains the baseline: no head exists or runs.
            perceptual: required unless its weight is 0; never trained nor saved.
        """
        super().__init__()
        if config.perceptual > 0.0 and perceptual is None:
            raise ValueError(f"the perceptual weight is {config.perceptual}, but no perceptual loss was given")
        if isinstance(perceptual, nn.Module):
            raise ValueError("wrap the perceptual network in a function, or it would be trained and saved")
        self.config = config
        self.autoencoder = autoencoder
        self.heads = heads if heads is not None and heads.config.weight > 0.0 else None
        self._perceptual = perceptual if config.perceptual > 0.0 else None

    def forward(self, pixels: Float[Tensor, "b 3 h w"], features: Features | None = None) -> dict[str, Tensor]:
        """Return ``"loss"``, with gradient, and its parts, without.

        Args:
            pixels: images in [-1, 1].
            features: the semantic encoder's, of the same images; required with heads, unused without.

        Returns:
            ``loss`` and, unweighted, ``mse``, ``perceptual``, ``kl`` (nats per image whatever the reduction) and the
            parts of :func:`reals.latents.align.align_loss`.
        """
        mean, log_variance = posterior(self.autoencoder, pixels)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        pixel_loss, pixel_parts = self.pixel_terms(decode(self.autoencoder, latent), pixels)
        latent_loss, latent_parts = self.latent_terms(mean, log_variance, latent, features)
        parts = {name: part.detach() for name, part in (pixel_parts | latent_parts).items()}
        return {"loss": pixel_loss + latent_loss, **parts}

    def pixel_terms(
        self, reconstruction: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return L_pixel (Eq. 3) without its adversarial term λ_g L_GAN, and its parts.

        The adversarial term is one more addend of this function; nothing else needs to know of it.
        """
        mse = (reconstruction.float() - pixels.float()).square().mean()
        loss, parts = mse, {"mse": mse}
        if self._perceptual is not None:
            parts["perceptual"] = self._perceptual(reconstruction, pixels)
            loss = loss + self.config.perceptual * parts["perceptual"]
        return loss, parts

    def latent_terms(
        self,
        mean: Float[Tensor, "b c rows columns"],
        log_variance: Float[Tensor, "b c rows columns"],
        latent: Float[Tensor, "b c rows columns"],
        features: Features | None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return L_latent (Eq. 4) and its parts."""
        kl = kl_divergence(mean, log_variance).mean()
        loss = self.config.kl * (kl if self.config.kl_reduction == "sum" else kl / mean[0].numel())
        parts = {"kl": kl}
        if self.heads is not None:
            if features is None:
                raise ValueError("the objective has alignment heads, but no semantic features were given")
            align = align_loss(self.heads, latent, features)
            loss = loss + self.heads.config.weight * align.pop("align")
            parts |= align
        return loss, parts


def kl_divergence(
    mean: Float[Tensor, "b c rows columns"], log_variance: Float[Tensor, "b c rows columns"]
) -> Float[Tensor, " b"]:
    """Return KL(N(μ, σ²) || N(0, 1)) = ½ Σ (μ² + σ² - 1 - ln σ²) of each image, in nats, float32."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(dim=1)
