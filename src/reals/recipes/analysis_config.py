"""How much of a latent space is analysed, and how: the flags of ``reals analyze``."""

from dataclasses import dataclass

from reals.evaluation.precision_recall import NEIGHBOURS as MANIFOLD_NEIGHBOURS
from reals.latents.analysis.probes import NEIGHBOURS as PROBE_NEIGHBOURS


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """What is measured, and on how much."""

    images: int = 2_000
    """Held-out photos on which latents, reconstructions and distances are measured, at most."""
    consistency_images: int = 500
    """Of these, photos on which Semantic Consistency is measured, five augmentations each, at most."""
    equivariance_images: int = 500
    """Of these, photos on which equivariance is measured, at most."""
    encoder_images: int = 1_000
    """Of these, photos that the semantic encoder looks at, at most."""
    probe_images: int = 5_000
    """Training photos on which k-NN and linear probes are fitted, at most; labelled photos only."""
    reference_images: int = 2_000
    """Training photos that reconstructions and interpolations are compared with, at most."""
    map_classes: int = 10
    """Classes on the t-SNE map, at most."""
    map_images: int = 128
    """Held-out photos per class on the map, at most."""
    attention_images: int = 4
    """Photos whose attention maps are drawn."""
    replicates: int = 200
    """Bootstrap resamples behind every interval."""
    seed: int = 0
    """Chooses photos, augmentations, pairs and resamples."""

    def __post_init__(self) -> None:
        least = {
            "images": MANIFOLD_NEIGHBOURS + 1,
            "consistency_images": 2,
            "equivariance_images": 2,
            "encoder_images": 4,
            "probe_images": PROBE_NEIGHBOURS,
            "reference_images": MANIFOLD_NEIGHBOURS + 1,
            "map_classes": 1,
            "map_images": 1,
            "attention_images": 1,
            "replicates": 2,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {smallest}")
