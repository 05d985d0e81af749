"""Stage 1 of the paper, and what follows from it for photos of 256 x 256 pixels: a GPU, and models from a hub."""

from dataclasses import replace

from reals.apps.generate import RandomLabels
from reals.diffusion.solvers import EulerMaruyama
from reals.evaluation.classifier import ClassifierConfig
from reals.latents.adversarial import AdversarialConfig
from reals.latents.align import AlignConfig
from reals.latents.normalise import MinMax
from reals.latents.objective import ObjectiveConfig
from reals.models.lpips import Lpips
from reals.models.semantic import DinoV2
from reals.models.transformer import SIT_B
from reals.recipes.schema import DataConfig, EvaluationConfig, Pretrained, Recipe, SamplingConfig, StageOneConfig
from reals.training.config import Cosine, LoopConfig


def imagenet256_vae() -> Recipe:
    """Stage 1 of the paper at its own settings (ReaLS, section 4.1 and Table 1): SD-VAE aligned with DINOv2-large.

    ``torchrun --nproc-per-node 8 -m reals align --data IMAGENET/train --recipe imagenet256-vae --out DIR``. AdamW 5e-5
    with a cosine to 0, global batch 64, 10 epochs, LPIPS, PatchGAN, λ_g 0.1, λ_p 1, λ_k 2e-5, λ_a 1; the encoder sees
    448 x 448 pixels. Needs a model hub, or the directories of two models and VGG16's weights. The paper's result: rFID
    0.85, PSNR 23.45, SSIM 0.768 (Table 8). About 3.6 TFLOP an image: some 46 hours of one H200 at 35 % of its peak, by
    arithmetic. Not measured yet. The paper does not say when its discriminator starts, nor the decay of its average.
    """
    return Recipe(
        name="imagenet256-vae",
        data=DataConfig(image_size=256, held_out_fraction=0.01),
        semantic=DinoV2(model="facebook/dinov2-with-registers-large"),
        autoencoder=Pretrained(location="stabilityai/sd-vae-ft-ema"),
        objective=ObjectiveConfig(
            perceptual=1.0,
            perceptual_network=Lpips(),
            kl=2e-5,
            adversarial=AdversarialConfig(weight=0.1, start=2000, warm_up=2000),
        ),
        align=AlignConfig(weight=1.0),
        stage1=StageOneConfig(
            training=LoopConfig(
                # On ImageNet's 1.27 million training photos; the epochs decide.
                steps=198_000,
                batch_size=64,
                learning_rate=5e-5,
                schedule=Cosine(),
                ema_decay=0.9999,
                checkpoint_every=1000,
                log_every=50,
                workers=8,
            ),
            epochs=10.0,
            # Cached features of ImageNet would fill terabytes.
            feature_cache_gigabytes=0.0,
        ),
        normalisation=MinMax(),
        generator=SIT_B(2),
        stage2=LoopConfig(steps=400_000, batch_size=256, learning_rate=1e-4, checkpoint_every=5000, log_every=100),
        sampling=SamplingConfig(
            count=10_000,
            solver=EulerMaruyama(),
            guidance_scales=(1.0, 2.0),
            guidance_interval=(0.0, 0.75),
            labels=RandomLabels(),
            batch_size=64,
        ),
        evaluation=EvaluationConfig(classifier=ClassifierConfig(epochs=20, width=64)),
    )


def photos256() -> Recipe:
    """Photos of 256 x 256 pixels on one GPU: your own SD-VAE aligned with DINOv2-large, SiT-B/2 in its latent space.

    ``reals run --data PHOTOS --recipe photos256 --out DIR``; needs a model hub, or the two models' directories and
    VGG16's weights. The losses of ``imagenet256-vae`` for a data set of thousands to tens of thousands of photos:
    10,000 steps, four micro-batches. Not measured yet.
    """
    recipe = imagenet256_vae()
    training = replace(recipe.stage1.training, steps=10_000, ema_decay=0.999, accumulate=4)
    return replace(
        recipe,
        name="photos256",
        data=DataConfig(image_size=256),
        objective=replace(recipe.objective, adversarial=AdversarialConfig(weight=0.1, start=500, warm_up=500)),
        stage1=StageOneConfig(training=training, feature_cache_gigabytes=64.0),
        stage2=replace(recipe.stage2, steps=100_000),
    )
