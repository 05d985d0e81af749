"""The training loss of stage 1 (ReaLS, Eq. 3 to 5)."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.latents.adaptive import observed
from reals.latents.adversarial import AdversarialConfig, AdversarialTerm
from reals.latents.align import AlignHeads, align_loss
from reals.latents.equivariance import EquivarianceConfig
from reals.latents.perceptual import PerceptualLoss, ShallowFeatures
from reals.latents.vision_foundation import VisionFoundationTerm
from reals.models.autoencoder import AutoencoderKL, decode, posterior
from reals.models.lpips import Lpips
from reals.models.semantic import Features


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the stage 1 losses other than alignment."""

    perceptual: float = 1.0
    """λ_p, weight of the perceptual distance (Eq. 3); 0 leaves it out."""
    perceptual_network: ShallowFeatures | Lpips = ShallowFeatures()
    """Whose features it compares: LPIPS as in the paper, or a network that needs no download."""
    kl: float = 2e-5
    """λ_k, weight of the KL divergence from the posterior to the standard normal distribution (Eq. 4)."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """Over the latent's dimensions; the batch is always averaged. The paper's latents fit a sum (std about 1)."""
    adversarial: AdversarialConfig = field(default_factory=lambda: AdversarialConfig(weight=0.0))
    """λ_g and the discriminator (Eq. 3); without one unless the recipe asks for it."""

    def __post_init__(self) -> None:
        for name in ("perceptual", "kl"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")

    def without_adversary(self) -> "ObjectiveConfig":
        """Return the same without a discriminator."""
        return replace(self, adversarial=replace(self.adversarial, weight=0.0))


class AutoencoderObjective(nn.Module):
    """L = L_MSE + λ_p L_perceptual + λ_g L_GAN + λ_k L_KL + λ_a L_align, and ReaLS's rivals; what stage 1 trains."""

    def __init__(
        self,
        autoencoder: AutoencoderKL,
        config: ObjectiveConfig,
        heads: AlignHeads | None = None,
        perceptual: PerceptualLoss | None = None,
        *,
        vision_foundation: VisionFoundationTerm | None = None,
        equivariance: EquivarianceConfig | None = None,
    ):
        """Combine an autoencoder with what it is trained against.

        Args:
            autoencoder: trained.
            config: weights.
            heads: trained too. None, or a λ_a of 0, trains the baseline: no head exists or runs.
            perceptual: required unless its weight is 0; never trained nor saved.
            vision_foundation: a rival alignment, trained too, if wanted.
            equivariance: a rival regulariser, if wanted.
        """
        super().__init__()
        if config.perceptual > 0.0 and perceptual is None:
            raise ValueError(f"the perceptual weight is {config.perceptual}, but no perceptual loss was given")
        if isinstance(perceptual, nn.Module):
            raise ValueError("wrap the perceptual network in a function, or it would be trained and saved")
        self.config = config
        self.autoencoder = autoencoder
        self.heads = heads if heads is not None and heads.config.weight > 0.0 else None
        self.vision_foundation = vision_foundation
        self.equivariance = equivariance or EquivarianceConfig()
        self._perceptual = perceptual if config.perceptual > 0.0 else None
        # By this name the training loop gives it an optimiser of its own.
        self.discriminator = config.adversarial.discriminator.build() if config.adversarial.weight > 0.0 else None
        last_layer = nn.Module.get_submodule(autoencoder, "decoder.conv_out")
        self.adversarial = (
            AdversarialTerm(config.adversarial, last_layer)  # pyright: ignore[reportArgumentType]
            if self.discriminator is not None
            else None
        )

    def forward(
        self,
        pixels: Float[Tensor, "b 3 h w"],
        features: Features | None = None,
        noise: Float[Tensor, "b c rows columns"] | None = None,
        step: int = 0,
    ) -> dict[str, Tensor]:
        """Return ``"loss"``, with gradient, and its parts, without.

        Args:
            pixels: images in [-1, 1].
            features: the semantic encoder's, of the same images; required with heads, unused without.
            noise: ε of the posterior sample z = μ + σ ε; drawn from torch's global generator if None.
            step: of the optimiser; the discriminator's start and the equivariance transform depend on it.

        Returns:
            ``loss`` and, once the discriminator plays, ``discriminator_loss``; unweighted, ``mse``, ``perceptual``,
            ``kl`` (nats per image whatever the reduction) and the parts of each further term.
        """
        mean, log_variance = posterior(self.autoencoder, pixels)
        noise = torch.randn_like(mean) if noise is None else noise
        latent = mean + torch.exp(0.5 * log_variance) * noise
        grid = latent.shape[-1]
        transform = self.equivariance.at(step, grid)
        rival = self.vision_foundation
        # The decoder's gradient is what the rival's adaptive weight is measured against.
        seen = latent if rival is None else observed(latent, rival.observer("reference", log_variance, noise))
        reconstruction = decode(self.autoencoder, transform.latent(seen))
        pixel_loss, parts = self.pixel_terms(reconstruction, transform.image(pixels, grid), step)
        latent_loss, latent_parts = self.latent_terms(mean, log_variance, latent, features, noise)
        losses = {"loss": pixel_loss + latent_loss}
        if "discriminator_loss" in parts:
            losses["discriminator_loss"] = parts.pop("discriminator_loss")
        return losses | {name: part.detach() for name, part in (parts | latent_parts).items()}

    def pixel_terms(
        self, reconstruction: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 3 h w"], step: int = 0
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return L_pixel (Eq. 3) and its parts, among them the discriminator's own loss, with its gradient."""
        reconstruction, pixels = reconstruction.float(), pixels.float()
        game = self.adversarial if self.adversarial is not None and self.adversarial.active(step) else None
        seen = reconstruction if game is None else observed(reconstruction, game.reference)
        mse = (seen - pixels).square().mean()
        loss, parts = mse, {"mse": mse}
        if self._perceptual is not None:
            parts["perceptual"] = self._perceptual(seen, pixels)
            loss = loss + self.config.perceptual * parts["perceptual"]
        if game is not None and self.discriminator is not None:
            term, more = game.generator(self.discriminator, reconstruction, step)
            parts["discriminator_loss"], logits = game.discriminator(self.discriminator, reconstruction, pixels)
            loss, parts = loss + term, parts | more | logits
        return loss, parts

    def latent_terms(
        self,
        mean: Float[Tensor, "b c rows columns"],
        log_variance: Float[Tensor, "b c rows columns"],
        latent: Float[Tensor, "b c rows columns"],
        features: Features | None,
        noise: Float[Tensor, "b c rows columns"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return L_latent (Eq. 4), with the rival alignment if there is one, and its parts."""
        kl = kl_divergence(mean, log_variance).mean()
        loss = self.config.kl * (kl if self.config.kl_reduction == "sum" else kl / mean[0].numel())
        parts = {"kl": kl}
        if self.heads is None and self.vision_foundation is None:
            return loss, parts
        if features is None:
            raise ValueError("the objective has alignment heads, but no semantic features were given")
        if self.heads is not None:
            align = align_loss(self.heads, latent, features)
            loss = loss + self.heads.config.weight * align.pop("align")
            parts |= align
        if self.vision_foundation is not None:
            if noise is None:
                raise ValueError("the vision foundation term needs the noise of the latent sample")
            term, more = self.vision_foundation(log_variance, noise, latent, features)
            loss, parts = loss + term, parts | more
        return loss, parts

    def after_backward(self) -> None:
        """Find the adaptive weights of the next step from the gradients of this one; every process calls this."""
        for term in (self.adversarial, self.vision_foundation):
            if term is not None:
                term.balance.settle()

    def shards(self) -> list[nn.Module]:
        """Return the parts to gather one at a time where weights are spread over processes."""
        network: nn.Module = self.autoencoder
        groups = (network.get_submodule("encoder.down_blocks"), network.get_submodule("decoder.up_blocks"))
        return [block for group in groups for block in group.children()]


def kl_divergence(
    mean: Float[Tensor, "b c rows columns"], log_variance: Float[Tensor, "b c rows columns"]
) -> Float[Tensor, " b"]:
    """Return KL(N(μ, σ²) || N(0, 1)) = ½ Σ (μ² + σ² - 1 - ln σ²) of each image, in nats, float32."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).flatten(1).sum(dim=1)
