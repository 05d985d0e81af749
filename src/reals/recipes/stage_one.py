"""Stage 1: an autoencoder whose latents predict a frozen encoder's features (ReaLS, section 3.2 and 3.3)."""

from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from reals.data.sampler import StoreImages, TrainingSampler
from reals.data.store import ImageStore
from reals.latents.align import AlignHeads
from reals.latents.features import FeatureCache, FeatureStatistics, cache_features, cached_bytes, feature_statistics
from reals.latents.normalise import LatentNormalisation
from reals.latents.objective import AutoencoderObjective, ObjectiveConfig
from reals.latents.perceptual import FeaturePerceptualLoss
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
from reals.models.semantic import EfficientNetLite0, Features, SemanticEncoder
from reals.recipes.schema import Pretrained, Recipe, Scratch
from reals.recipes.workspace import RunDirectory
from reals.runtime import dist, interrupt
from reals.runtime.errors import UserError, nearest
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress, say
from reals.runtime.seed import derive_seed, seed_everything, torch_generator
from reals.training.config import LoopConfig
from reals.training.loop import Batch, fit
from reals.training.precision import autocast_dtype
from reals.training.state import TrainState

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

_PACKAGE = "package:"
_STATISTICS_IMAGES = 10_000
_FEATURE_STATISTICS_IMAGES = 2_000
_BATCH = 250


@runtime_checkable
class FeatureSource(Protocol):
    """Where the semantic features of training images come from: a cache, or the encoder itself."""

    @property
    def statistics(self) -> FeatureStatistics:
        """Per-channel mean and deviation, for the heads."""
        ...

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Return the features of a batch of stored images, given as :class:`StoreImages` does, and of its pixels."""
        ...


class CachedFeatures:
    """Features computed once for every training image and its mirror image."""

    def __init__(self, cache: FeatureCache):
        self._cache = cache
        rows = cache.rows
        self._order = np.argsort(rows)
        self._sorted = rows[self._order]

    @property
    def statistics(self) -> FeatureStatistics:
        """Of an evenly spread part of the cached images; measured when first asked for."""
        return self._statistics

    @cached_property
    def _statistics(self) -> FeatureStatistics:
        return feature_statistics(self._cache.get(block) for block in _spread_blocks(len(self._cache)))

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Look the batch up."""
        positions = self._order[np.searchsorted(self._sorted, images["row"].numpy())]
        found = self._cache.get(positions, images["mirrored"].numpy())
        return Features(found.patch.to(pixels.device), found.pooled.to(pixels.device))


class ComputedFeatures:
    """Features computed anew at each visit, for data sets whose cache would not fit."""

    def __init__(self, encoder: SemanticEncoder, grid: tuple[int, int], store: ImageStore, rows: np.ndarray):
        self._encoder, self._grid, self._store, self._rows = encoder, grid, store, rows

    @property
    def statistics(self) -> FeatureStatistics:
        """Of an evenly spread part of the images; measured when first asked for."""
        return self._statistics

    @cached_property
    def _statistics(self) -> FeatureStatistics:
        blocks = (self._store.load(self._rows[block]) for block in _spread_blocks(len(self._rows)))
        return feature_statistics(self._encoder(to_pixels(block), self._grid) for block in blocks)

    def __call__(self, images: dict[str, Tensor], pixels: Tensor) -> Features:
        """Run the encoder."""
        return self._encoder(pixels, self._grid)


def _spread_blocks(count: int) -> Iterator[np.ndarray]:
    """Yield evenly spaced positions: rows are in the order of the files, the first ones of the first classes."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, _FEATURE_STATISTICS_IMAGES)).astype(np.int64))
    for start in range(0, len(chosen), _BATCH):
        yield chosen[start : start + _BATCH]


def training_rows(recipe: Recipe, store: ImageStore) -> np.ndarray:
    """Return the rows that stage 1 trains on: a random subset, since photos in class folders are sorted by class."""
    generator = np.random.default_rng(derive_seed(recipe.seed, "stage 1 images"))
    return np.sort(generator.permutation(store.train)[: recipe.stage1.images])


def open_features(
    recipe: Recipe, store: ImageStore, start: str, directory: Path, device: torch.device
) -> FeatureSource:
    """Cache the semantic features of the training images, or prepare to compute them where they would not fit.

    Raises:
        UserError: the encoder cannot be loaded, or the directory caches other features.
    """
    rows = training_rows(recipe, store)
    side = store.size // downsampling(load_autoencoder(start))
    grid = (side, side)
    encoder = recipe.semantic.build(device)
    needed = cached_bytes(len(rows), grid, encoder.patch_dim, encoder.pooled_dim)
    if needed > recipe.stage1.feature_cache_gigabytes * 1e9:
        say(f"semantic features would need {needed / 1e9:.1f} GB on disk: computing them on the fly")
        return ComputedFeatures(encoder, grid, store, rows)
    cache_features(
        encoder,
        store.load,
        rows,
        grid,
        directory,
        batch_size=64,
        device=device,
        dtype=autocast_dtype(recipe.stage1.training.precision),
        metadata={"photos": store.fingerprint},
    )
    return CachedFeatures(FeatureCache(directory))


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
    seed_everything(recipe.seed, "autoencoder")
    autoencoder = scratch.architecture.build()
    objective = _objective(autoencoder, recipe.objective, None, device)
    batches = autoencoder_batches(store, training_rows(recipe, store), scratch.training, recipe.seed, device, None)
    state = fit(
        objective,
        batches,
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
    """Continue the autoencoder at ``start`` with the recipe's λ_a into ``finished``, unless that is done.

    Semantic features, if any are needed, are looked for in ``cache``. Every arm draws the same images, mirrors and
    posterior noise at each step; only the loss differs.
    """
    if (finished / STATISTICS_NAME).exists():
        return
    autoencoder = load_autoencoder(start)
    features = open_features(recipe, store, start, cache, device) if recipe.align.weight > 0 else None
    heads = _heads(recipe, latent_channels(autoencoder), features)
    objective = _objective(autoencoder, recipe.objective, heads, device)
    loop = recipe.stage1.training
    batches = autoencoder_batches(store, training_rows(recipe, store), loop, recipe.seed, device, features)
    state = fit(
        objective,
        batches,
        loop,
        training,
        seed=derive_seed(recipe.seed, "stage 1"),
        description=f"Train autoencoder ({finished.parent.name})",
    )
    aligned = _with_weights(load_autoencoder(start), state)
    if heads is not None:
        heads.load_state_dict(state.final_weights("heads."))
    export_autoencoder(recipe, aligned, heads, store, finished, device)


def _with_weights(autoencoder: "AutoencoderKL", state: TrainState) -> "AutoencoderKL":
    """Return the autoencoder with what was trained: the trained one itself may be spread over processes."""
    nn.Module.load_state_dict(autoencoder, state.final_weights("autoencoder."))
    return autoencoder


def _heads(recipe: Recipe, channels: int, features: FeatureSource | None) -> AlignHeads | None:
    if recipe.align.weight == 0.0:
        return None
    if features is None:
        raise ValueError("alignment needs semantic features")
    seed_everything(recipe.seed, "align heads")
    return recipe.align.build(channels, features.statistics)


def _objective(
    autoencoder: "AutoencoderKL", config: ObjectiveConfig, heads: AlignHeads | None, device: torch.device
) -> AutoencoderObjective:
    perceptual = FeaturePerceptualLoss(EfficientNetLite0().build(device)) if config.perceptual > 0 else None
    return AutoencoderObjective(autoencoder, config, heads, perceptual)


def autoencoder_batches(
    store: ImageStore,
    rows: np.ndarray,
    loop: LoopConfig,
    seed: int,
    device: torch.device,
    features: FeatureSource | None,
) -> Callable[[int], Iterator[Batch]]:
    """Return batches of pixels, mirrored with probability one half, with their semantic features if wanted."""

    def batches(step: int) -> Iterator[Batch]:
        order = TrainingSampler(
            rows,
            loop.batch_size,
            derive_seed(seed, "photos"),
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
        for images in loader:
            pixels = to_pixels(images["image"].to(device, non_blocking=True))
            yield {"pixels": pixels, "features": None if features is None else features(images, pixels)}

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
    recipe.normalisation.from_statistics(statistics).attach(autoencoder)
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
    elif LatentNormalisation.of(load_autoencoder(copy)) != recipe.normalisation.from_statistics(read_statistics(copy)):
        raise UserError(f"{copy}: is a copy with another normalisation; give another --out")
    return copy


def _measure_statistics(
    recipe: Recipe, autoencoder: "AutoencoderKL", store: ImageStore, device: torch.device
) -> LatentStatistics:
    """Measure posterior samples of up to 10,000 training photos, as the authors do."""
    generator = np.random.default_rng(derive_seed(recipe.seed, "statistics images"))
    rows = np.sort(generator.permutation(store.train)[:_STATISTICS_IMAGES])
    dtype = autocast_dtype(recipe.stage1.training.precision)

    def samples() -> Iterator[Tensor]:
        with progress("Latent statistics", len(rows), "images") as bar:
            for start in range(0, len(rows), _BATCH):
                interrupt.stop_if_requested("while measuring latent statistics")
                pixels = to_pixels(store.load(rows[start : start + _BATCH])).to(device)
                with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                    mean, log_variance = posterior(autoencoder, pixels)
                noise = torch.randn(mean.shape, generator=torch_generator(recipe.seed, "statistics", start))
                bar.advance(len(pixels))
                yield mean + torch.exp(0.5 * log_variance) * noise.to(device)

    return latent_statistics(samples())
