"""Recipes that need no model hub, and no GPU."""

from dataclasses import replace

from reals.apps.generate import BalancedLabels
from reals.diffusion.solvers import Euler
from reals.evaluation.classifier import ClassifierConfig
from reals.latents.align import AlignConfig
from reals.latents.normalise import Standardise
from reals.latents.objective import ObjectiveConfig
from reals.models.autoencoder import AutoencoderConfig
from reals.models.semantic import EfficientNetLite0
from reals.models.transformer import TransformerConfig
from reals.recipes.schema import (
    DataConfig,
    EvaluationConfig,
    Pretrained,
    Recipe,
    SamplingConfig,
    Scratch,
    StageOneConfig,
)
from reals.training.config import Cosine, LoopConfig


def photos32() -> Recipe:
    """Small photos (CIFAR-10 and the like) on a CPU, offline.

    ``reals run --data cifar10-train.zip --recipe photos32 --out runs/photos32``. An autoencoder with downsampling 4 is
    trained from scratch, first without alignment, then continued in each arm. λ_a = 0.1: the paper's 1 belongs to a
    loss with LPIPS and a discriminator, 0.1 is the sweep's choice for four channels. Sixteen channels:
    ``--autoencoder.architecture.latent-channels 16 --align.weight 0.3``. Measured in docs/results.md.
    """
    stage1 = LoopConfig(
        steps=500,
        batch_size=64,
        learning_rate=5e-4,
        schedule=Cosine(warm_up=20),
        ema_decay=0.99,
        clip_norm=1.0,
        checkpoint_every=250,
        log_every=20,
    )
    return Recipe(
        name="photos32",
        data=DataConfig(image_size=32),
        semantic=EfficientNetLite0(),
        autoencoder=Scratch(
            architecture=AutoencoderConfig(
                block_channels=(16, 32, 64), layers_per_block=1, latent_channels=4, norm_groups=8
            ),
            training=replace(stage1, steps=1000, learning_rate=1e-3, schedule=Cosine(warm_up=100)),
        ),
        # This distance, in [0, 4], is many times the squared error: with weight 1 it would drown it.
        objective=ObjectiveConfig(perceptual=0.1),
        align=AlignConfig(weight=0.1),
        stage1=StageOneConfig(training=stage1, images=10_000),
        normalisation=Standardise(),
        generator=TransformerConfig(depth=6, width=192, heads=6, patch_size=2),
        stage2=LoopConfig(
            steps=1000,
            batch_size=128,
            learning_rate=1e-3,
            schedule=Cosine(warm_up=50),
            ema_decay=0.99,
            clip_norm=1.0,
            checkpoint_every=250,
            log_every=20,
        ),
        sampling=SamplingConfig(count=3000, solver=Euler(steps=25), guidance_scales=(1.0, 3.0)),
        evaluation=EvaluationConfig(classifier=ClassifierConfig(epochs=5)),
        side_by_side=True,
    )


def scenes64() -> Recipe:
    """Rendered scenes of 64 x 64 pixels with an autoencoder of downsampling 8 trained from scratch.

    ``reals align --data plain-scenes:8000:1 --recipe scenes64 --out DIR`` leaves in ``DIR/base`` the autoencoder that
    ships as ``package:plain-scenes64`` (tools/pack_autoencoder.py), trained without alignment.
    """
    recipe = photos32()
    architecture = AutoencoderConfig(
        block_channels=(16, 16, 32, 96), layers_per_block=1, latent_channels=4, norm_groups=8
    )
    base = LoopConfig(
        steps=3000,
        batch_size=32,
        learning_rate=1e-3,
        schedule=Cosine(warm_up=100),
        ema_decay=0.995,
        clip_norm=1.0,
        checkpoint_every=250,
        log_every=20,
    )
    return replace(
        recipe,
        name="scenes64",
        data=DataConfig(image_size=64),
        autoencoder=Scratch(architecture=architecture, training=base),
        # The squared error is a mean over pixels, the KL term a sum over latents: what 2e-5 is at 256 x 256 pixels,
        # 2e-5 * (256 / 64)^2 is here. Smoother latents are learnt sooner.
        objective=replace(recipe.objective, kl=3.2e-4),
        stage1=StageOneConfig(training=replace(base, steps=500, learning_rate=3e-4, schedule=Cosine(warm_up=20))),
    )


def quickstart() -> Recipe:
    """Rendered scenes of 64 x 64 pixels, a packaged autoencoder to start from, minutes on two CPU cores.

    ``reals quickstart``.
    """
    recipe = photos32()
    stage1 = replace(recipe.stage1.training, steps=100, batch_size=32, learning_rate=3e-4, ema_decay=0.95)
    return replace(
        recipe,
        name="quickstart",
        data=DataConfig(image_size=64, held_out_fraction=0.2),
        autoencoder=Pretrained(location="package:plain-scenes64"),
        objective=scenes64().objective,
        stage1=StageOneConfig(training=replace(stage1, checkpoint_every=50, log_every=10), images=1600),
        generator=TransformerConfig(depth=6, width=128, heads=4, patch_size=2),
        stage2=replace(
            recipe.stage2, steps=1600, batch_size=64, learning_rate=2e-3, ema_decay=0.995, checkpoint_every=200
        ),
        sampling=replace(recipe.sampling, count=500, solver=Euler(steps=20), guidance_scales=(1.0, 3.0)),
        evaluation=replace(
            recipe.evaluation,
            classifier=ClassifierConfig(epochs=5, width=16),
            reference_images=1500,
            held_out_images=500,
            consistency_images=300,
            replicates=100,
        ),
    )


def clothing256() -> Recipe:
    """A few thousand photos of 256 x 256 pixels on a CPU, offline: a narrow autoencoder of downsampling 16.

    ``reals run --data PHOTOS --recipe clothing256 --out runs/clothing256``. Sixteen channels on a 16 x 16 grid;
    EfficientNet-Lite0 sees the photos at their own size. λ_a = 0.3 is the sweep's choice for sixteen channels, on other
    photos. Measured in docs/results.md.
    """
    recipe = photos32()
    stage1 = replace(recipe.stage1.training, steps=250, batch_size=8, checkpoint_every=50)
    return replace(
        recipe,
        name="clothing256",
        data=DataConfig(image_size=256),
        align=replace(recipe.align, weight=0.3),
        autoencoder=Scratch(
            architecture=AutoencoderConfig(
                block_channels=(8, 16, 32, 64, 128), layers_per_block=1, latent_channels=16, norm_groups=8
            ),
            training=replace(stage1, steps=700, learning_rate=1e-3, schedule=Cosine(warm_up=50)),
        ),
        stage1=StageOneConfig(training=stage1, feature_cache_gigabytes=2.0),
        sampling=replace(recipe.sampling, count=1000, batch_size=50),
        evaluation=replace(recipe.evaluation, reference_images=2000, probe_images=2000, consistency_images=250),
    )


def debug() -> Recipe:
    """Everything at its smallest, on scenes: seconds on a CPU; to try an installation or a change, not to learn from.

    ``reals run --data scenes:120 --recipe debug --out DIR``.
    """
    recipe = photos32()
    loop = replace(recipe.stage2, steps=4, batch_size=8, checkpoint_every=2, log_every=1, precision="float32")
    return replace(
        recipe,
        name="debug",
        side_by_side=False,
        data=DataConfig(image_size=16, held_out_fraction=0.4),
        autoencoder=Scratch(
            architecture=AutoencoderConfig(
                block_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_groups=4, mid_attention=False
            ),
            training=loop,
        ),
        stage1=StageOneConfig(training=loop, images=32),
        generator=TransformerConfig(depth=1, width=32, heads=2, patch_size=2),
        stage2=loop,
        sampling=SamplingConfig(
            count=24, solver=Euler(steps=2), guidance_scales=(1.0, 2.0), labels=BalancedLabels(), batch_size=10
        ),
        evaluation=EvaluationConfig(
            classifier=ClassifierConfig(epochs=1, width=4, batch_size=16),
            reference_images=40,
            probe_images=40,
            held_out_images=24,
            consistency_images=8,
            replicates=10,
        ),
    )
