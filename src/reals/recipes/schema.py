"""A recipe: every number of a whole run, in one frozen tree that the command line can override leaf by leaf."""

from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from reals.apps.generate import BalancedLabels, RandomLabels
from reals.diffusion.gaussian import DDIM, DDPM, GaussianDiffusion
from reals.diffusion.guidance import Guidance
from reals.diffusion.objective import FlowMatching
from reals.diffusion.solvers import Dopri5, Euler, EulerMaruyama, Heun, StochasticHeun
from reals.evaluation.classifier import ClassifierConfig
from reals.evaluation.precision_recall import NEIGHBOURS as MANIFOLD_NEIGHBOURS
from reals.latents.align import AlignConfig
from reals.latents.analysis.probes import NEIGHBOURS as PROBE_NEIGHBOURS
from reals.latents.equivariance import EquivarianceConfig
from reals.latents.normalise import LatentNormalisation, MinMax, Standardise
from reals.latents.objective import ObjectiveConfig
from reals.latents.statistics import LatentStatistics
from reals.latents.vision_foundation import VisionFoundationConfig
from reals.models.autoencoder import AutoencoderConfig
from reals.models.semantic import DinoV2, EfficientNetLite0
from reals.models.transformer import TransformerConfig
from reals.recipes.generator_training import GeneratorTraining
from reals.runtime.seed import derive_seed
from reals.training.config import LoopConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How photos become training images."""

    image_size: int
    """Side of the square images in pixels; photos are centre-cropped to it as ADM does."""
    held_out_fraction: float = 0.1
    """Share of the photos kept for measuring, chosen by a hash of the file name."""

    def __post_init__(self) -> None:
        if self.image_size < 8:
            raise ValueError(f"image_size is {self.image_size}; it must be at least 8")
        if not 0.0 < self.held_out_fraction < 1.0:
            raise ValueError(f"held_out_fraction is {self.held_out_fraction}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """An autoencoder trained here: first without alignment, once for all arms, then continued in each arm."""

    architecture: AutoencoderConfig
    """Widths and channels."""
    training: LoopConfig
    """The phase that all arms share."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """An existing autoencoder from which every arm starts, as the paper starts from SD-VAE."""

    location: str
    """Hub id, directory, or ``package:NAME`` for one that ships with this package."""


@dataclass(frozen=True, kw_only=True)
class StageOneConfig:
    """The part of stage 1 in which the arms differ."""

    training: LoopConfig
    """Steps, batch and optimiser, the same for every arm."""
    images: int | None = None
    """Train on this many of the training photos, or None for all; fewer make the semantic features cheap to cache."""
    epochs: float | None = None
    """Passes over these images, in place of a number of steps; None keeps to training.steps."""
    gradient_checkpointing: bool = False
    """Compute the autoencoder's activations a second time in the backward pass instead of keeping them."""
    feature_cache_gigabytes: float = 4.0
    """Semantic features are cached on disk if they need no more than this, else computed on the fly."""

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise ValueError(f"images is {self.images}; it must be at least 1, or None for all")
        if self.epochs is not None and self.epochs <= 0.0:
            raise ValueError(f"epochs is {self.epochs}; it must be positive, or None")
        if self.feature_cache_gigabytes < 0.0:
            raise ValueError(f"feature_cache_gigabytes is {self.feature_cache_gigabytes}; it must not be negative")

    def loop(self, images: int) -> LoopConfig:
        """Return the training's length and rules on this many images."""
        if self.epochs is None:
            return self.training
        return replace(self.training, steps=max(1, round(self.epochs * images / self.training.batch_size)))


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """What is generated for the comparison."""

    count: int
    """Samples per guidance scale."""
    solver: Euler | Heun | Dopri5 | EulerMaruyama | StochasticHeun | DDPM | DDIM
    """How noise is carried to data."""
    guidance_scales: tuple[float, ...] = (1.0,)
    """Classifier-free guidance scales, each sampled and measured; 1 is off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels (1 = pure noise) between which guidance is on; the paper's setting is 0 0.75."""
    guidance_channels: int | None = None
    """Guide only this many leading channels, or None for all; SiT's and DiT's published numbers guide 3 of 4."""
    labels: RandomLabels | BalancedLabels = BalancedLabels()
    """Which classes the samples are of."""
    batch_size: int = 250
    """Images at once; the samples do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        names = [f"{self.guidance(scale).scale:g}" for scale in self.guidance_scales]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"guidance_scales is {list(self.guidance_scales)}; give at least one, and each once")

    def guidance(self, scale: float) -> Guidance:
        """Return the guidance at one of the scales."""
        return Guidance(scale=scale, interval=self.guidance_interval, channels=self.guidance_channels)

    def scales(self, *, labelled: bool) -> tuple[float, ...]:
        """Return the scales that are sampled: without classes there is nothing to guide by."""
        return self.guidance_scales if labelled else (1.0,)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and on how much."""

    classifier: ClassifierConfig
    """The small network, trained on the same photos, whose features alignment never saw."""
    reference_images: int = 10_000
    """Training photos that samples and reconstructions are compared with, at most."""
    probe_images: int = 5_000
    """Training photos on which probes of the latent space are fitted, at most."""
    held_out_images: int = 5_000
    """Held-out photos on which reconstruction and probes are measured, at most."""
    consistency_images: int = 1_000
    """Held-out photos on which Semantic Consistency is measured, at most."""
    replicates: int = 200
    """Bootstrap resamples behind every interval."""

    def __post_init__(self) -> None:
        # Precision and recall look for a third neighbour, a probe for twenty, an interval for two replicates.
        least = {
            "reference_images": MANIFOLD_NEIGHBOURS + 1,
            "probe_images": PROBE_NEIGHBOURS,
            "held_out_images": MANIFOLD_NEIGHBOURS + 1,
            "consistency_images": 2,
            "replicates": 2,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {smallest}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of a run; ``--help`` of a command shows the chosen recipe's values."""

    name: Annotated[str, tyro.conf.Suppress]
    """The preset this recipe started from."""
    data: DataConfig
    """Photos."""
    semantic: EfficientNetLite0 | DinoV2
    """The frozen encoder whose features the latents learn to predict."""
    autoencoder: Scratch | Pretrained
    """Where every arm's autoencoder starts."""
    objective: ObjectiveConfig
    """Stage 1 losses other than alignment."""
    align: AlignConfig
    """The alignment loss; ``--align.weight`` is λ_a of the aligned arm, the baseline arm has 0."""
    stage1: StageOneConfig
    """Stage 1 training."""
    normalisation: MinMax | Standardise
    """How raw latents are mapped before stage 2."""
    generator: TransformerConfig
    """The diffusion transformer."""
    stage2: LoopConfig
    """Stage 2 training."""
    sampling: SamplingConfig
    """Samples."""
    evaluation: EvaluationConfig
    """Measurements."""
    vision_foundation: VisionFoundationConfig = VisionFoundationConfig()
    """VA-VAE's alignment loss, a rival of ``align``, in the aligned arm only; both can be combined."""
    equivariance: EquivarianceConfig = EquivarianceConfig()
    """EQ-VAE's regulariser, in the aligned arm only; can be combined with either."""
    latent_gain: float = 1.0
    """Multiplies normalised latents, and with them the signal-to-noise ratio at every time of stage 2."""
    process: FlowMatching | GaussianDiffusion = FlowMatching()
    """What the generator minimises: flow matching as SiT does, or Gaussian diffusion as DiT does."""
    generator_training: GeneratorTraining = GeneratorTraining()
    """REPA, previews, trackers and the like; the same in all arms."""
    seed: int = 0
    """Seeds weights, order, noise and samples; all arms share it."""
    side_by_side: bool = False
    """On a CPU, train the arms at the same time, each with its share of the threads: small networks gain more from a
    second process than from a second thread. On a GPU or under torchrun the arms take turns."""

    @property
    def sampling_seed(self) -> int:
        """The seed of every arm's samples: ``reals sample --seed`` with it makes the same images."""
        return derive_seed(self.seed, "samples")

    @property
    def aligns(self) -> bool:
        """Whether the aligned arm needs semantic features."""
        return self.align.weight > 0.0 or self.vision_foundation.weight > 0.0

    def latent_normalisation(self, statistics: LatentStatistics) -> LatentNormalisation:
        """Return the map from raw latents of these statistics to what stage 2 is trained on.

        Raises:
            UserError: the latents are constant.
        """
        plain = self.normalisation.from_statistics(statistics)
        return replace(plain, scale=plain.scale * self.latent_gain)

    @property
    def repa(self) -> bool:
        """Whether stage 2 needs semantic features, in every arm."""
        return self.generator_training.repa.weight > 0.0

    def __post_init__(self) -> None:
        if self.latent_gain <= 0.0:
            raise ValueError(f"latent_gain is {self.latent_gain}; it must be positive")

    def without_alignment(self) -> "Recipe":
        """Return this recipe with nothing that shapes latents but reconstruction and the KL term."""
        return replace(
            self,
            align=replace(self.align, weight=0.0),
            vision_foundation=replace(self.vision_foundation, weight=0.0),
            equivariance=replace(self.equivariance, weight=0.0),
        )

    def for_arm(self, arm: str) -> "Recipe":
        """Return this recipe as the arm trains it: the baseline has no alignment and differs in nothing else."""
        return self.without_alignment() if arm == "baseline" else self
