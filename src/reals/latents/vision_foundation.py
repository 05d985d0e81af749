"""VA-VAE's alignment with a vision foundation model (Yao et al., 2501.01423, section 3.2): ReaLS's rival.

Latents are brought to the encoder's width by one linear map; two losses with margins compare them with its patch
features, cell by cell and by how the cells of an image resemble each other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reals.latents.adaptive import AdaptiveWeight, LastLayer, Observer, weighed, weighing
from reals.models.autoencoder import AutoencoderKL
from reals.models.semantic import Features


@dataclass(frozen=True, kw_only=True)
class VisionFoundationConfig:
    """Weights and margins; the defaults are VA-VAE's, switched off."""

    weight: float = 0.0
    """Weight of the term, multiplied by the adaptive weight; 0 leaves it out, VA-VAE uses 0.1."""
    cosine_margin: float = 0.5
    """Cells whose cosine similarity is above 1 minus this are let be (m₁)."""
    distance_margin: float = 0.25
    """Differences of similarity between two cells below this are let be (m₂)."""
    adaptive: bool = True
    """Whether it pulls on the encoder's last layer as strongly as the reconstruction does, times ``weight``."""
    largest_adaptive: float = 1e8
    """The adaptive weight is clamped to this."""

    def __post_init__(self) -> None:
        for name in ("weight", "cosine_margin", "distance_margin", "largest_adaptive"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")

    def build(self, autoencoder: AutoencoderKL, feature_dim: int) -> "VisionFoundationTerm":
        """Return the term for an autoencoder and an encoder with patch features of this length."""
        return VisionFoundationTerm(self, autoencoder, feature_dim)


def marginal_cosine_loss(
    projected: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], margin: float
) -> Float[Tensor, ""]:
    """Return the mean of (1 - m₁ - cos(z'_i, f_i))₊ over cells (Eq. 3)."""
    return F.relu(1.0 - margin - F.cosine_similarity(projected, target, dim=-1)).mean()


def marginal_distance_loss(
    projected: Float[Tensor, "b n d"], target: Float[Tensor, "b n d"], margin: float
) -> Float[Tensor, ""]:
    """Return the mean of (|cos(z'_i, z'_j) - cos(f_i, f_j)| - m₂)₊ over pairs of cells of an image (Eq. 4)."""
    ours, theirs = (F.normalize(side, dim=-1) for side in (projected, target))
    difference = ours @ ours.transpose(1, 2) - theirs @ theirs.transpose(1, 2)
    return F.relu(difference.abs() - margin).mean()


class VisionFoundationTerm(nn.Module):
    """The linear map, the two losses, and their adaptive weight at the encoder's last layer."""

    def __init__(self, config: VisionFoundationConfig, autoencoder: AutoencoderKL, feature_dim: int):
        """Make the map from the autoencoder's latent channels to ``feature_dim``."""
        super().__init__()
        self.config = config
        self.projection = nn.Linear(int(autoencoder.config["latent_channels"]), feature_dim, bias=False)
        self.balance = AdaptiveWeight(config.largest_adaptive, adaptive=config.adaptive)
        self._encoder_end = EncoderEnd(autoencoder)

    def forward(
        self,
        log_variance: Float[Tensor, "b c rows columns"],
        noise: Float[Tensor, "b c rows columns"],
        latent: Float[Tensor, "b c rows columns"],
        features: Features,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the weighted term and its parts, for latents z = μ + σ ε and the encoder's features of the image."""
        balance = self.balance.current()
        factor = balance * self.config.weight
        seen = weighing(latent, factor, self.observer("term", log_variance, noise))
        cells = self.projection(seen.flatten(2).transpose(1, 2)).float()
        targets = features.patch.flatten(1, 2).float()
        with torch.autocast(cells.device.type, enabled=False):
            cosine = marginal_cosine_loss(cells, targets, self.config.cosine_margin)
            distance = marginal_distance_loss(cells, targets, self.config.distance_margin)
        parts = {"vf_cosine": cosine, "vf_distance": distance, "vf_adaptive_weight": balance}
        return weighed(cosine + distance, factor), parts

    def observer(self, name: str, log_variance: Tensor, noise: Tensor) -> Observer:
        """Return what turns gradients with respect to the latent sample into ones of the last layer, and notes them."""
        spread = 0.5 * torch.exp(0.5 * log_variance.detach()) * noise

        def note(gradient: Tensor) -> None:
            if not self.balance.adaptive:
                return
            moments = torch.cat([gradient.float(), gradient.float() * spread], dim=1)
            self.balance.note(name, self._encoder_end.weight_gradient(moments))

        return note


class EncoderEnd:
    """From gradients of the posterior's parameters to those of the encoder's last convolution."""

    def __init__(self, autoencoder: AutoencoderKL):
        network: nn.Module = autoencoder
        self._last_layer = LastLayer(network.get_submodule("encoder.conv_out"))  # pyright: ignore[reportArgumentType]
        quant = getattr(autoencoder, "quant_conv", None)
        self._quant: nn.Conv2d | None = quant if isinstance(quant, nn.Conv2d) else None
        self._quant_weight: Tensor | None = None
        if self._quant is not None:
            self._quant.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, _inputs: object) -> None:
        # Now, since a sharded weight is only whole during the forward pass.
        weight = module.weight
        self._quant_weight = weight.detach().float().clone() if isinstance(weight, Tensor) else None

    def weight_gradient(self, moments: Float[Tensor, "b c rows columns"]) -> Tensor:
        """Return ∂L/∂weight of the last convolution from ∂L/∂(μ, ln σ²)."""
        if self._quant_weight is not None:
            with torch.autocast(moments.device.type, enabled=False):
                moments = F.conv_transpose2d(moments, self._quant_weight)
        return self._last_layer.weight_gradient(moments)
