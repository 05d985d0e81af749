"""Stage 2: the posterior of every photo, cached; then a diffusion transformer trained on samples from it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from reals.data.store import ImageStore
from reals.diffusion.repa import RepaObjective
from reals.latents.cache import LatentCache, encode_images
from reals.latents.codec import LatentCodec
from reals.models.transformer import Transformer
from reals.recipes.checks import check_repa
from reals.recipes.generator import GeneratorCard, save_generator
from reals.recipes.latent_batches import CachedLatents, latent_batches
from reals.recipes.preview import Preview
from reals.recipes.repa_features import GeneratorFeatures
from reals.recipes.schema import Recipe
from reals.runtime import dist
from reals.runtime.config import to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, save_tensors, write_json
from reals.runtime.memory import images_at_once
from reals.runtime.seed import derive_seed, seed_everything
from reals.training.loop import fit
from reals.training.precision import autocast_dtype
from reals.training.state import TrainState

INDEX_NAME = "index.json"
"""Written last into a directory of cached latents."""
PREVIEWS_NAME = "previews"
"""Of the pictures of samples in a directory of training."""
PROJECTOR_NAME = "projector.safetensors"
"""Of REPA's projector in a directory of training; nothing but further training needs it."""
_ENCODE_BATCH = 250


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


def train_generator(
    recipe: Recipe,
    latents: CachedLatents,
    autoencoder: Path,
    training: Path,
    finished: Path,
    device: torch.device,
    *,
    features: GeneratorFeatures | None = None,
    preview: Preview | None = None,
) -> None:
    """Train the recipe's transformer into ``finished``, resuming from ``training``, unless that is done.

    Further moving averages become generators of their own, ``finished`` with ``-ema-DECAY`` behind its name. REPA's
    projector is left in ``training``.

    Args:
        recipe: transformer, process and training.
        latents: of the photos.
        autoencoder: that made them.
        training: checkpoints, log, event files and previews.
        finished: the generator.
        device: where to train.
        features: the semantic encoder's, needed by REPA.
        preview: looks at the generator on the way, if any.

    Raises:
        UserError: the latents were made by another autoencoder, or REPA cannot be had with these settings.
    """
    options = recipe.generator_training
    codec = LatentCodec.from_directory(autoencoder, torch.device("cpu"))
    if latents.autoencoder_fingerprint != codec.fingerprint:
        raise UserError(f"{latents.directory}: made by another autoencoder than {autoencoder}; encode again")
    if (finished / "config.json").exists():
        return
    card = _card(recipe, latents)
    objective, network = _objective(recipe, card, latents, features)
    prefix = _prefix_of(network, objective)

    def averaged(state: TrainState, decay: float | None = None) -> Transformer:
        made = card.build()
        # The position embedding is not trained, so it is not among them.
        made.load_state_dict(state.final_weights(prefix, decay), strict=False)
        return made.to(device)

    batches = latent_batches(
        latents,
        codec.normalisation,
        recipe.stage2,
        recipe.seed,
        device,
        label_dropout=recipe.generator.label_dropout,
        features=features if recipe.repa else None,
    )
    with options.tracker.watch(training, finished.parent.name, to_dict(recipe)) as watcher:
        state = fit(
            objective,
            batches,
            recipe.stage2,
            training,
            seed=derive_seed(recipe.seed, "stage 2"),
            description=f"Train generator ({finished.parent.name})",
            hooks=() if preview is None else (preview.hook(averaged, training / PREVIEWS_NAME),),
            watchers=(watcher,),
        )
    _save(state, card, objective, averaged, training, finished)


def _card(recipe: Recipe, latents: CachedLatents) -> GeneratorCard:
    channels, grid, _ = latents.shape
    return GeneratorCard(
        transformer=recipe.generator,
        latent_channels=channels,
        grid=grid,
        num_classes=latents.num_classes,
        class_names=latents.class_names,
        autoencoder_fingerprint=latents.autoencoder_fingerprint,
        steps=recipe.stage2.steps,
        process=recipe.process,
    )


def _objective(
    recipe: Recipe,
    card: GeneratorCard,
    latents: CachedLatents,
    features: GeneratorFeatures | None,
) -> tuple[nn.Module, Transformer]:
    """Return what is minimised, and the network in it; its initial weights do not depend on the options."""
    seed_everything(recipe.seed, "generator")
    network = card.build()
    options = recipe.generator_training
    network.checkpoint_activations = options.checkpoint_activations
    repa = options.repa
    if not recipe.repa:
        objective: nn.Module = recipe.process.build(network)
        called = network
    else:
        if features is None:
            raise ValueError("REPA needs semantic features")
        check_repa(recipe)
        if features.photos != latents.cache.metadata["photos"]:
            raise UserError(f"{latents.directory}: latents of other photos than REPA's features; encode again")
        seed_everything(recipe.seed, "projector")
        objective = repa.build(network, recipe.generator.width, features.patch_dim, recipe.process.build)
        called = objective.tap
    if options.compile:
        # In place: no wrapper, so names in checkpoints stay.
        called.compile()
    return objective, network


def _prefix_of(network: nn.Module, objective: nn.Module) -> str:
    """Return what the names of the network's weights begin with in the objective."""
    return next(f"{name}." for name, module in objective.named_modules() if module is network)


def _save(
    state: TrainState,
    card: GeneratorCard,
    objective: nn.Module,
    averaged: Callable[[TrainState, float | None], Transformer],
    training: Path,
    finished: Path,
) -> None:
    """Write what was trained, the generator last: it marks the stage as finished."""
    if isinstance(objective, RepaObjective):
        projector = state.final_weights("projector.")
        if dist.is_main():
            save_tensors(training / PROJECTOR_NAME, projector)
    for decay in (*state.further, None):
        weights = averaged(state, decay).state_dict()
        if dist.is_main():
            directory = finished if decay is None else finished.with_name(f"{finished.name}-ema-{decay:g}")
            save_generator(directory, card, weights)
    dist.barrier()
