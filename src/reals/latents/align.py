"""The alignment of latents with a semantic encoder's features (ReaLS, section 3.2, Eq. 1 and 2)."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reals.latents.features import FeatureStatistics
from reals.models.semantic import Features
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import load_tensors, read_json, save_tensors, write_json

WEIGHTS_NAME = "align_heads.safetensors"
CONFIG_NAME = "align_heads.json"


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Weights and heads of the semantic alignment loss."""

    weight: float = 1.0
    """λ_a, the weight of alignment in the whole loss (Eq. 4); 0 trains without any alignment: the baseline."""
    cosine: float = 0.9
    """λ₁, weight of the cosine distance between predicted and true features (Eq. 2)."""
    smooth: float = 0.1
    """λ₂, weight of the smooth L1 distance between the same features (Eq. 2)."""
    patch: float = 1.0
    """Weight of the patch head, which predicts each cell's feature from that cell's latent; 0 drops the head."""
    pooled: float = 1.0
    """Weight of the pooled (cls) head, which predicts the image's feature from the mean latent; 0 drops the head."""
    depth: int = 2
    """Linear layers of each head, with GELU between them; the paper uses 2 and tries 1 and 4."""
    hidden: int | None = None
    """Width of the hidden layers, or None for the length of the feature predicted."""
    standardise: bool = True
    """Whether each feature channel is shifted and scaled to mean 0 and deviation 1, as measured on the data."""
    centre_positions: bool = False
    """Whether the mean patch feature of each position is subtracted from the targets: the template that all photos
    share, which the latents would otherwise learn too."""

    def __post_init__(self) -> None:
        for name in ("weight", "cosine", "smooth", "patch", "pooled"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.patch == 0.0 and self.pooled == 0.0:
            raise ValueError("patch and pooled are both 0; to train without alignment set weight to 0")
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}; it must be at least 1")
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}; it must be at least 1, or None")

    def build(self, latent_channels: int, statistics: FeatureStatistics) -> "AlignHeads":
        """Return randomly initialised heads for features like those that ``statistics`` were measured on."""
        return AlignHeads(self, latent_channels, statistics)


class AlignHeads(nn.Module):
    """Two multilayer perceptrons from latents to features: one per cell, one on the mean over cells (Eq. 1).

    They work on standardised features; the statistics are buffers, saved and moved with the weights.
    """

    patch_mean: Tensor
    patch_std: Tensor
    pooled_mean: Tensor
    pooled_std: Tensor

    def __init__(self, config: AlignConfig, latent_channels: int, statistics: FeatureStatistics):
        super().__init__()
        self.config = config
        self.latent_channels = latent_channels
        statistics = statistics if config.standardise else statistics.neutral()
        for name, tensor in statistics._asdict().items():
            self.register_buffer(name, tensor.detach().clone().float())
        self.patch_head = (
            _perceptron(latent_channels, config.hidden, len(statistics.patch_std), config.depth)
            if config.patch > 0.0
            else None
        )
        self.pooled_head = (
            _perceptron(latent_channels, config.hidden, len(statistics.pooled_std), config.depth)
            if config.pooled > 0.0
            else None
        )

    def patch(self, latent: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b rows columns d"]:
        """Return the predicted patch features, standardised: MLP_patch(z_ij)."""
        if self.patch_head is None:
            raise UserError("these alignment heads have no patch head (align.patch was 0); train with align.patch > 0")
        return self.patch_head(latent.permute(0, 2, 3, 1))

    def pooled(self, latent: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b e"]:
        """Return the predicted pooled features, standardised: MLP_cls(mean over cells of z)."""
        if self.pooled_head is None:
            raise UserError(
                "these alignment heads have no pooled head (align.pooled was 0); train with align.pooled > 0"
            )
        return self.pooled_head(latent.mean(dim=(2, 3)))

    def predict(self, latent: Float[Tensor, "b c rows columns"]) -> Features:
        """Return the predicted features in the encoder's own units, for heads that read perception from latents.

        Args:
            latent: raw latents (not normalised), of images or generated.

        Raises:
            UserError: the heads were trained for one of the two features only.
        """
        self._check_grid(latent.shape[2], latent.shape[3])
        patch, pooled = self.patch(latent).float(), self.pooled(latent).float()
        return Features(
            patch=patch * self.patch_std + self.patch_mean, pooled=pooled * self.pooled_std + self.pooled_mean
        )

    def standardise(self, features: Features) -> Features:
        """Return features, in the encoder's units, on the scale that the heads predict."""
        self._check_grid(features.patch.shape[1], features.patch.shape[2])
        return Features(
            patch=(features.patch.float() - self.patch_mean) / self.patch_std,
            pooled=(features.pooled.float() - self.pooled_mean) / self.pooled_std,
        )

    def _check_grid(self, rows: int, columns: int) -> None:
        """Refuse a grid other than that on which positions were centred; without centring any grid will do."""
        if self.patch_mean.dim() > 1 and tuple(self.patch_mean.shape[:2]) != (rows, columns):
            known = "x".join(str(side) for side in self.patch_mean.shape[:2])
            raise UserError(
                f"these alignment heads centre each position of a {known} grid (align.centre_positions) and cannot be "
                f"used on a {rows}x{columns} one; give images of the size they were trained on"
            )

    def save(self, directory: Path) -> None:
        """Write weights, statistics and configuration into ``directory``, beside the autoencoder."""
        save_tensors(directory / WEIGHTS_NAME, self.state_dict())
        write_json(directory / CONFIG_NAME, {"align": to_dict(self.config), "latent_channels": self.latent_channels})

    @classmethod
    def load(cls, directory: Path) -> "AlignHeads":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the directory has no alignment heads, or their files do not fit together.
        """
        path = directory / CONFIG_NAME
        if not path.exists():
            raise UserError(f"{directory}: has no {CONFIG_NAME}; give the directory of an aligned autoencoder")
        saved = read_json(path)
        if not isinstance(saved, dict) or set(saved) != {"align", "latent_channels"}:
            raise UserError(f"{path}: expected the fields align and latent_channels; export the autoencoder again")
        tensors = load_tensors(directory / WEIGHTS_NAME)
        try:
            statistics = FeatureStatistics(**{name: tensors[name] for name in FeatureStatistics._fields})
            heads = from_dict(AlignConfig, saved["align"], str(path)).build(saved["latent_channels"], statistics)
            heads.load_state_dict(tensors)
        except (KeyError, RuntimeError):
            raise UserError(
                f"{directory}: {WEIGHTS_NAME} does not fit {CONFIG_NAME}; export the autoencoder again"
            ) from None
        return heads.eval()


def align_loss(
    heads: AlignHeads, latent: Float[Tensor, "b c rows columns"], features: Features
) -> dict[str, Float[Tensor, ""]]:
    """Return λ₁ L_cos + λ₂ L_smooth of each head (Eq. 2) and what they add up to, float32.

    L_cos is the mean of 1 - cosine similarity; L_smooth the mean smooth L1 distance (threshold 1) over elements.

    Args:
        heads: predict features from ``latent``.
        latent: z = μ + σ ε, the reparameterised sample, not the mean.
        features: the encoder's features of the same images, in its units, on the same grid.

    Returns:
        ``align``: patch and pooled terms times their weights, not yet times λ_a. For each head present,
        ``align_patch`` / ``align_pooled``, the term, and ``patch_cosine`` / ``pooled_cosine``, the similarity.
    """
    expected = tuple(latent.shape[2:])
    if tuple(features.patch.shape[1:3]) != expected:
        raise ValueError(f"patch features have the grid {tuple(features.patch.shape[1:3])}, latents {expected}")
    config, target = heads.config, heads.standardise(features)
    losses: dict[str, Tensor] = {}
    total = latent.new_zeros((), dtype=torch.float32)
    for name, weight in (("patch", config.patch), ("pooled", config.pooled)):
        if weight == 0.0:
            continue
        predicted, true = getattr(heads, name)(latent), getattr(target, name)
        with torch.autocast(latent.device.type, enabled=False):
            cosine = F.cosine_similarity(predicted.float(), true, dim=-1).mean()
            smooth = F.smooth_l1_loss(predicted.float(), true)
        term = config.cosine * (1.0 - cosine) + config.smooth * smooth
        total = total + weight * term
        losses |= {f"align_{name}": term, f"{name}_cosine": cosine}
    return {"align": total, **losses}


def _perceptron(inputs: int, hidden: int | None, outputs: int, depth: int) -> nn.Sequential:
    """Return ``depth`` linear layers with GELU between them."""
    widths = [inputs, *[hidden or outputs] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for left, right in pairwise(widths):
        layers += [nn.Linear(left, right), nn.GELU()]
    return nn.Sequential(*layers[:-1])
