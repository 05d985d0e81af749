"""Stage 1: an autoencoder whose latents predict a frozen encoder's features (ReaLS, section 3.2 and 3.3)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reals.data.sampler import StoreImages, TrainingSampler
from reals.data.store import ImageStore
from reals.diffusion.noise import PerImageNoise
from reals.latents.adversarial import DiscriminatorHealth
from reals.latents.align import AlignHeads
from reals.latents.normalise import LatentNormalisation
from reals.latents.objective import AutoencoderObjective
from reals.latents.statistics import (
    STATISTICS_NAME,
    LatentStatistics,
    latent_statistics,
    read_statistics,
    write_statistics,
)
from reals.models.autoencoder import (
    downsampling,
    latent_channels,
    load_autoencoder,
    posterior,
    save_autoencoder,
)
from reals.models.fingerprint import weights_fingerprint
from reals.models.memory_layout import arrange_for_training
from reals.recipes.features import FeatureSource, open_features, training_rows
from reals.recipes.schema import Pretrained, Recipe, Scratch
from reals.recipes.workspace import RunDirectory
from reals.runtime import dist, interrupt
from reals.runtime.errors import UserError, nearest
from reals.runtime.memory import images_at_once
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress, say
from reals.runtime.seed import derive_seed, seed_everything, torch_generator
from reals.training.config import LoopConfig, OptimiserConfig
from reals.training.loop import Batch, fit
from reals.training.precision import autocast_dtype
from reals.training.state import TrainState

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

_PACKAGE = "package:"
_STATISTICS_IMAGES = 10_000
_BATCH = 250


def packaged_autoencoder(name: str) -> Path:
    """Return the directory of an autoencoder that ships with this package.

    Raises:
        UserError: there is none of that name.
    """
    assets = Path(str(files("reals"))) / "assets"
    known = [path.name for path in assets.iterdir() if path.is_dir()] if assets.exists() else []
    if name not in known:
        raise UserError(f"{_PACKAGE}{name}: no such packaged autoencoder{nearest(name, known)}")
    return assets / name


def starting_autoencoder(recipe: Recipe, store: ImageStore, run: RunDirectory, device: torch.device) -> str:
    """Return where the autoencoder lies from which every arm starts; train it, without alignment, if need be.

    Raises:
        UserError: the images do not divide into latent cells, or a pretrained autoencoder is not to be had.
    """
    latent_side(recipe)
    if isinstance(recipe.autoencoder, Pretrained):
        return _pretrained_location(recipe.autoencoder)
    scratch = recipe.autoencoder
    if not (run.base / "config.json").exists():
        _train_base(recipe, scratch, store, run, device)
    return str(run.base)


def latent_side(recipe: Recipe) -> int:
    """Return the latent's side in positions; looks into a pretrained autoencoder to find out.

    Raises:
        UserError: the images do not divide into latent cells, or the pretrained autoencoder is not to be had.
    """
    start, size = recipe.autoencoder, recipe.data.image_size
    if isinstance(start, Pretrained):
        factor = downsampling(load_autoencoder(_pretrained_location(start)))
    else:
        factor = start.architecture.downsampling
    if size % factor:
        raise UserError(f"images of {size} pixels do not divide into cells of {factor}; choose another data.image_size")
    return size // factor


def _pretrained_location(start: Pretrained) -> str:
    if start.location.startswith(_PACKAGE):
        return str(packaged_autoencoder(start.location.removeprefix(_PACKAGE)))
    return start.location


def _train_base(recipe: Recipe, scratch: Scratch, store: ImageStore, run: RunDirectory, device: torch.device) -> None:
    """Train what all arms start from: neither alignment nor a discriminator."""
    plain = replace(recipe.without_alignment(), objective=recipe.objective.without_adversary())
    seed_everything(recipe.seed, "autoencoder")
    autoencoder = scratch.architecture.build()
    state = fit(
        _objective(plain, autoencoder, None, device),
        autoencoder_batches(plain, store, autoencoder, scratch.training, "base", device, None),
        scratch.training,
        run.base_training,
        seed=derive_seed(recipe.seed, "base"),
        description="Train starting autoencoder",
    )
    finished = _with_weights(scratch.architecture.build(), state)
    if dist.is_main():
        save_autoencoder(finished, run.base)
    dist.barrier()


def align_autoencoder(
    recipe: Recipe,
    store: ImageStore,
    start: str,
    cache: Path,
    training: Path,
    finished: Path,
    device: torch.device,
) -> None:
    """Continue the autoencoder at ``start`` by the recipe's objective into ``finished``, unless that is done.

    Semantic features, if any are needed, are looked for in ``cache``. Every arm draws the same images, mirrors and
    posterior noise at each step; only the loss differs.
    """
    if (finished / STATISTICS_NAME).exists():
        return
    autoencoder = load_autoencoder(start)
    features = open_features(recipe, store, start, cache, device) if recipe.aligns else None
    heads = _heads(recipe, latent_channels(autoencoder), features)
    if recipe.stage1.gradient_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    objective = _objective(recipe, autoencoder, features, device, heads)
    loop = recipe.stage1.loop(len(training_rows(recipe, store)))
    game = recipe.objective.adversarial
    rule = OptimiserConfig(learning_rate=game.learning_rate, betas=game.betas, schedule=loop.schedule)
    state = fit(
        objective,
        autoencoder_batches(recipe, store, autoencoder, loop, "stage 1", device, features),
        loop,
        training,
        seed=derive_seed(recipe.seed, "stage 1"),
        description=f"Train autoencoder ({finished.parent.name})",
        others={"discriminator": rule} if game.weight > 0.0 else None,
        watchers=(DiscriminatorHealth(game.largest_adaptive, say),),
    )
    aligned = _with_weights(load_autoencoder(start), state)
    trained_heads = _heads(recipe, latent_channels(autoencoder), features)
    if trained_heads is not None:
        trained_heads.load_state_dict(state.final_weights("heads."))
    export_autoencoder(recipe, aligned, trained_heads, store, finished, device)


def _with_weights(autoencoder: "AutoencoderKL", state: TrainState) -> "AutoencoderKL":
    """Return a fresh autoencoder with what was trained: the trained one itself may be spread over processes."""
    nn.Module.load_state_dict(autoencoder, state.final_weights("autoencoder."))
    return autoencoder


def _heads(recipe: Recipe, channels: int, features: FeatureSource | None) -> AlignHeads | None:
    if recipe.align.weight == 0.0:
        return None
    if features is None:
        raise ValueError("alignment needs semantic features")
    seed_everything(recipe.seed, "align heads")
    return recipe.align.build(channels, features.statistics(centre_positions=recipe.align.centre_positions))


def _objective(
    recipe: Recipe,
    autoencoder: "AutoencoderKL",
    features: FeatureSource | None,
    device: torch.device,
    heads: AlignHeads | None = None,
) -> AutoencoderObjective:
    rival = None
    if recipe.vision_foundation.weight > 0.0:
        if features is None:
            raise ValueError("the vision foundation term needs semantic features")
        seed_everything(recipe.seed, "vision foundation")
        rival = recipe.vision_foundation.build(autoencoder, features.patch_dim)
    seed_everything(recipe.seed, "discriminator")
    config = recipe.objective
    arrange_for_training(autoencoder, device)
    objective = AutoencoderObjective(
        autoencoder,
        config,
        heads,
        config.perceptual_network.build(device) if config.perceptual > 0.0 else None,
        vision_foundation=rival,
        equivariance=recipe.equivariance,
    )
    if dist.world_size() > 1 and device.type == "cuda":
        # The discriminator's batch statistics are then those of all processes; there is no such layer for CPUs.
        return cast(AutoencoderObjective, nn.SyncBatchNorm.convert_sync_batchnorm(objective))
    return objective


def autoencoder_batches(
    recipe: Recipe,
    store: ImageStore,
    autoencoder: "AutoencoderKL",
    loop: LoopConfig,
    purpose: str,
    device: torch.device,
    features: FeatureSource | None,
) -> Callable[[int], Iterator[Batch]]:
    """Return batches of pixels, mirrored with probability one half, with noise and, if wanted, semantic features.

    Noise belongs to a place in the global batch of a step, so it does not matter how that batch is cut.
    """
    rows = training_rows(recipe, store)
    side = store.size // downsampling(autoencoder)
    shape = (latent_channels(autoencoder), side, side)

    def batches(step: int) -> Iterator[Batch]:
        order = TrainingSampler(
            rows,
            loop.batch_size,
            derive_seed(recipe.seed, "photos"),
            step,
            loop.steps,
            dist.rank(),
            dist.world_size(),
            loop.accumulate,
        )
        loader = DataLoader(
            StoreImages(store),
            batch_sampler=order,
            num_workers=loop.workers,
            collate_fn=StoreImages.collate,
            pin_memory=device.type == "cuda",
            # Its own: a loader that starts draws from torch's global generator, which the loop has seeded for the step.
            generator=torch.Generator(),
        )
        for number, images in enumerate(loader):
            pixels = to_pixels(images["image"].to(device, non_blocking=True))
            now, micro_batch = step + number // loop.accumulate, number % loop.accumulate
            first = now * loop.batch_size + (dist.rank() * loop.accumulate + micro_batch) * len(pixels)
            noise = PerImageNoise(derive_seed(recipe.seed, purpose, "noise"), range(first, first + len(pixels)))
            yield {
                "pixels": pixels,
                "features": None if features is None else features(images, pixels),
                "noise": noise(shape, device),
                "step": now,
            }

    return batches


def export_autoencoder(
    recipe: Recipe,
    autoencoder: "AutoencoderKL",
    heads: AlignHeads | None,
    store: ImageStore,
    finished: Path,
    device: torch.device,
) -> None:
    """Write the directory that plain diffusers loads, normalised, with statistics and alignment heads beside it."""
    nn.Module.to(autoencoder, device)
    statistics = _measure_statistics(recipe, autoencoder.eval(), store, device)
    recipe.latent_normalisation(statistics).attach(autoencoder)
    if dist.is_main():
        extras: list[Callable[[Path], None]] = [lambda directory: write_statistics(directory, statistics)]
        if heads is not None:
            extras.append(heads.save)
        save_autoencoder(autoencoder.cpu(), finished, extras)
    dist.barrier()


def ensure_statistics(recipe: Recipe, store: ImageStore, location: str, copy: Path, device: torch.device) -> Path:
    """Return an autoencoder directory with statistics: ``location`` itself, or a copy of it measured on these photos.

    Raises:
        UserError: there is no autoencoder at ``location``, or ``copy`` is something else than its copy.
    """
    if (Path(location) / STATISTICS_NAME).exists():
        return Path(location)
    autoencoder = load_autoencoder(location)
    if not copy.exists():
        export_autoencoder(recipe, autoencoder, None, store, copy, device)
    elif not (copy / STATISTICS_NAME).exists():
        raise UserError(f"{copy}: is in the way of a copy with latent statistics; give another --out")
    elif weights_fingerprint(load_autoencoder(copy)) != weights_fingerprint(autoencoder):
        raise UserError(f"{copy}: is a copy of another autoencoder than {location}; give another --out")
    elif LatentNormalisation.of(load_autoencoder(copy)) != recipe.latent_normalisation(read_statistics(copy)):
        raise UserError(f"{copy}: is a copy with another normalisation; give another --out")
    return copy


def _measure_statistics(
    recipe: Recipe, autoencoder: "AutoencoderKL", store: ImageStore, device: torch.device
) -> LatentStatistics:
    """Measure posterior samples of up to 10,000 training photos, as the authors do."""
    generator = np.random.default_rng(derive_seed(recipe.seed, "statistics images"))
    rows = np.sort(generator.permutation(store.train)[:_STATISTICS_IMAGES])
    dtype = autocast_dtype(recipe.stage1.training.precision)
    at_once = images_at_once(store.size, _BATCH)

    def samples() -> Iterator[Tensor]:
        with progress("Latent statistics", len(rows), "images") as bar:
            for start in range(0, len(rows), at_once):
                interrupt.stop_if_requested("while measuring latent statistics")
                pixels = to_pixels(store.load(rows[start : start + at_once])).to(device)
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    mean, log_variance = posterior(autoencoder, pixels)
                noise = torch.randn(mean.shape, generator=torch_generator(recipe.seed, "statistics", start))
                bar.advance(len(pixels))
                yield mean + torch.exp(0.5 * log_variance) * noise.to(device)

    return latent_statistics(samples())
