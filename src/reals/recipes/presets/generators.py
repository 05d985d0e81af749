"""Stage 2 of the paper on ImageNet at 256 x 256 pixels: DiT and SiT as published, in the aligned latent space.

All have stage 1 of ``imagenet256-vae``, patches of 2, label dropout 0.1, AdamW at a constant 1e-4 without weight decay,
batches of 256, a moving average of decay 0.9999, 400,000 steps, and 50,000 samples with random labels (ReaLS, section
4.2; DiT and SiT). Under ``reals run`` each trains two arms; the paper's baseline is SD-VAE itself, not SD-VAE trained
further without alignment as the arm is here.

**FIDs in the docstrings are the paper's**, by the ADM evaluator; none was reproduced here. Hours are by arithmetic, for
one H200 at half its dense bfloat16 peak of 790 TFLOP/s, cached latents, one arm, 102.4 million images; nothing of them
was measured. The published training loops reach about a quarter of such a peak. Adding ``-repa`` (arXiv 2410.06940)
brings the encoder into every step: 727 GFLOP an image for DINOv2-large at 448 pixels, 52 hours more.
"""

from dataclasses import replace

from reals.apps.generate import RandomLabels
from reals.diffusion.gaussian import DDPM, GaussianDiffusion
from reals.diffusion.repa import RepaConfig
from reals.diffusion.solvers import EulerMaruyama
from reals.models.transformer import SIT_B, SIT_L, SIT_XL, NamedTransformer
from reals.recipes.presets.imagenet import imagenet256_vae
from reals.recipes.schema import Recipe, SamplingConfig
from reals.training.config import LoopConfig


def imagenet256_sit_b() -> Recipe:
    """SiT-B/2 in the aligned latent space: linear path, velocity, Euler–Maruyama in 250 steps, the last one of 0.04.

    ``torchrun --nproc-per-node 8 -m reals run --data IMAGENET/train --recipe imagenet256-sit-b --out DIR``; or, after
    stage 1, ``reals train --recipe imagenet256-sit-b --latents LATENTS --autoencoder AUTOENCODER --out DIR``. About 9.9
    hours of one H200 by arithmetic, and 26 minutes for its samples. The paper's FID without guidance: 33.0 in SD-VAE's
    latents, 27.53 in aligned ones (Table 3).
    """
    return replace(
        imagenet256_vae(),
        name="imagenet256-sit-b",
        generator=SIT_B(2),
        stage2=LoopConfig(
            steps=400_000,
            batch_size=256,
            learning_rate=1e-4,
            ema_decay=0.9999,
            checkpoint_every=5000,
            log_every=100,
            workers=4,
        ),
        # Its defaults are the paper's: 250 steps, the coefficient sigma, a last step "Mean" of 0.04.
        sampling=SamplingConfig(count=50_000, solver=EulerMaruyama(), labels=RandomLabels(), batch_size=250),
    )


def imagenet256_sit_l() -> Recipe:
    """SiT-L/2, otherwise as ``imagenet256-sit-b``.

    ``reals train --recipe imagenet256-sit-l --latents LATENTS --autoencoder AUTOENCODER --out DIR``. About 35 hours of
    one H200 by arithmetic. The paper's FID without guidance: 18.8 in SD-VAE's latents, 16.39 in aligned ones (Table 3).
    """
    return replace(imagenet256_sit_b(), name="imagenet256-sit-l", generator=SIT_L(2))


def imagenet256_sit_xl() -> Recipe:
    """SiT-XL/2, also sampled with guidance 1.8 at noise levels up to 0.75, otherwise as ``imagenet256-sit-b``.

    ``reals train --recipe imagenet256-sit-xl --latents LATENTS --autoencoder AUTOENCODER --out DIR``. About 51 hours of
    one H200 by arithmetic; 2.1 hours for samples without guidance, 3.7 with it. The paper's FID without guidance: 17.2
    in SD-VAE's latents, 14.24 in aligned ones (Table 3); 1.82 with this guidance, after 400 epochs, five times these
    steps (Table 4).
    """
    recipe = imagenet256_sit_b()
    sampling = replace(recipe.sampling, guidance_scales=(1.0, 1.8), guidance_interval=(0.0, 0.75))
    return replace(recipe, name="imagenet256-sit-xl", generator=SIT_XL(2), sampling=sampling)


def imagenet256_dit_b() -> Recipe:
    """DiT-B/2: Gaussian diffusion with a learned variance, sampled by DDPM in 250 of its 1000 timesteps.

    ``reals train --recipe imagenet256-dit-b --latents LATENTS --autoencoder AUTOENCODER --out DIR``. About 9.9 hours of
    one H200 by arithmetic. The paper's FID without guidance: 43.5 in SD-VAE's latents, 35.27 in aligned ones (Table 3).
    """
    recipe = imagenet256_sit_b()
    return replace(
        recipe,
        name="imagenet256-dit-b",
        generator=NamedTransformer(size="B", patch_size=2, learn_sigma=True, variance=True).config(),
        process=GaussianDiffusion(),
        sampling=replace(recipe.sampling, solver=DDPM(steps=250)),
    )


def imagenet256_sit_b_repa() -> Recipe:
    """``imagenet256-sit-b`` with REPA.

    ``reals train --recipe imagenet256-sit-b-repa --latents LATENTS --autoencoder AUTOENCODER --images IMAGES --out
    DIR``. About 62 hours of one H200 by arithmetic. The paper's FID without guidance: 33.0 in SD-VAE's latents, 24.4
    with REPA, 23.40 with REPA in aligned latents; after a million steps 27.31 without either and 18.96 with both (Table
    9).
    """
    return _with_repa(imagenet256_sit_b())


def imagenet256_sit_l_repa() -> Recipe:
    """``imagenet256-sit-l`` with REPA.

    ``reals train --recipe imagenet256-sit-l-repa --latents LATENTS --autoencoder AUTOENCODER --images IMAGES --out
    DIR``. About 87 hours of one H200 by arithmetic. The paper has no number for it.
    """
    return _with_repa(imagenet256_sit_l())


def imagenet256_sit_xl_repa() -> Recipe:
    """``imagenet256-sit-xl`` with REPA.

    ``reals train --recipe imagenet256-sit-xl-repa --latents LATENTS --autoencoder AUTOENCODER --images IMAGES --out
    DIR``. About 104 hours of one H200 by arithmetic. The paper has no number for it.
    """
    return _with_repa(imagenet256_sit_xl())


def imagenet256_dit_b_repa() -> Recipe:
    """``imagenet256-dit-b`` with REPA.

    ``reals train --recipe imagenet256-dit-b-repa --latents LATENTS --autoencoder AUTOENCODER --images IMAGES --out
    DIR``. About 62 hours of one H200 by arithmetic. The paper has no number for it.
    """
    return _with_repa(imagenet256_dit_b())


def _with_repa(recipe: Recipe) -> Recipe:
    """Return ``recipe`` with REPA's loss, at the settings that its README trains with, and its clipping of gradients.

    The features are those of the recipe's own encoder on the latent grid (decision 25). REPA's code has DINOv2-base at
    224 pixels, one sixteenth of the cost.
    """
    options = replace(recipe.generator_training, repa=RepaConfig(weight=0.5, block=8, hidden=2048))
    return replace(
        recipe,
        name=f"{recipe.name}-repa",
        stage2=replace(recipe.stage2, clip_norm=1.0),
        generator_training=options,
    )
