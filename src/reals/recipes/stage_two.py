"""Stage 2: the posterior of every photo, cached; then a diffusion transformer trained on samples from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reals.data.sampler import TrainingSampler
from reals.data.store import ImageStore
from reals.diffusion.objective import FlowMatching
from reals.latents.cache import LatentCache, encode_images
from reals.latents.codec import LatentCodec
from reals.recipes.generator import GeneratorCard, save_generator
from reals.recipes.schema import Recipe
from reals.runtime import dist
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json
from reals.runtime.memory import images_at_once
from reals.runtime.seed import derive_seed, seed_everything, torch_generator
from reals.training.config import LoopConfig
from reals.training.loop import Batch, fit
from reals.training.precision import autocast_dtype

INDEX_NAME = "index.json"
"""Written last into a directory of cached latents."""
_ENCODE_BATCH = 250


@dataclass(frozen=True)
class CachedLatents:
    """A latent cache with the labels of its rows and the identity of the autoencoder that made it."""

    directory: Path
    cache: LatentCache
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    autoencoder_fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one latent."""
        return self.cache.shape


def encode_store(
    recipe: Recipe, store: ImageStore, autoencoder: Path, directory: Path, device: torch.device
) -> CachedLatents:
    """Cache mean and log-variance of the training photos, original and mirrored, unless that is done.

    Raises:
        UserError: the directory caches other photos or another autoencoder.
    """
    codec = LatentCodec.from_directory(autoencoder, device)
    fingerprint = codec.fingerprint
    encode_images(
        codec.autoencoder,
        lambda rows: store.load(store.train[rows]),
        len(store.train),
        directory,
        batch_size=images_at_once(store.size, _ENCODE_BATCH),
        device=device,
        dtype=autocast_dtype(recipe.stage1.training.precision),
        metadata={"photos": store.fingerprint},
    )
    if dist.is_main():
        index = {
            "labels": store.labels[store.train].tolist(),
            "num_classes": store.num_classes,
            "class_names": list(store.class_names),
            "autoencoder": fingerprint,
        }
        write_json(directory / INDEX_NAME, index)
    dist.barrier()
    return open_latents(directory)


def open_latents(directory: Path) -> CachedLatents:
    """Open what :func:`encode_store` wrote.

    Raises:
        UserError: the cache is absent or incomplete.
    """
    cache = LatentCache(directory)
    index = read_json(directory / INDEX_NAME)
    labels = np.array(index["labels"], dtype=np.int64)
    return CachedLatents(
        directory, cache, labels, index["num_classes"], tuple(index["class_names"]), index["autoencoder"]
    )


def latent_batches(
    latents: CachedLatents, codec: LatentCodec, loop: LoopConfig, seed: int, device: torch.device
) -> Callable[[int], Iterator[Batch]]:
    """Return batches of normalised latents: a fresh posterior sample and a fair mirror at each visit."""

    def batches(step: int) -> Iterator[Batch]:
        order = TrainingSampler(
            np.arange(len(latents.labels)),
            loop.batch_size,
            derive_seed(seed, "latents"),
            step,
            loop.steps,
            dist.rank(),
            dist.world_size(),
            loop.accumulate,
        )
        for number, items in enumerate(order):
            rows = np.array([row for row, _ in items])
            mirrored = np.array([mirror for _, mirror in items])
            position = step * loop.accumulate + number
            generator = torch_generator(seed, "posterior", position, dist.rank())
            noise = torch.randn((len(rows), *latents.shape), generator=generator)
            raw = latents.cache.sample(rows, mirrored, noise).to(device)
            labels = torch.from_numpy(latents.labels[rows]).to(device)
            yield {"latents": codec.normalisation.normalise(raw), "labels": labels}

    return batches


def train_generator(
    recipe: Recipe, latents: CachedLatents, autoencoder: Path, training: Path, finished: Path, device: torch.device
) -> None:
    """Train the recipe's transformer into ``finished``, resuming from ``training``, unless that is done.

    Raises:
        UserError: the latents were made by another autoencoder.
    """
    codec = LatentCodec.from_directory(autoencoder, torch.device("cpu"))
    if latents.autoencoder_fingerprint != codec.fingerprint:
        raise UserError(f"{latents.directory}: made by another autoencoder than {autoencoder}; encode again")
    if (finished / "config.json").exists():
        return
    channels, grid, _ = latents.shape
    card = GeneratorCard(
        transformer=recipe.generator,
        latent_channels=channels,
        grid=grid,
        num_classes=latents.num_classes,
        class_names=latents.class_names,
        autoencoder_fingerprint=latents.autoencoder_fingerprint,
        steps=recipe.stage2.steps,
    )
    seed_everything(recipe.seed, "generator")
    objective = FlowMatching().build(card.build())
    state = fit(
        objective,
        latent_batches(latents, codec, recipe.stage2, recipe.seed, device),
        recipe.stage2,
        training,
        seed=derive_seed(recipe.seed, "stage 2"),
        description=f"Train generator ({finished.parent.name})",
    )
    trained = card.build()
    # The position embedding is not trained, so it is not among them.
    trained.load_state_dict(state.final_weights("network."), strict=False)
    if dist.is_main():
        save_generator(finished, card, trained.state_dict())
    dist.barrier()
