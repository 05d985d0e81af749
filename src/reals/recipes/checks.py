"""What would stop a run late, found early: before anything is written, or before anything is trained."""

import numpy as np
import torch

from reals.data.store import ImageStore
from reals.diffusion.gaussian import GaussianDiffusion, LearnedRange
from reals.diffusion.process import check_sampler
from reals.evaluation.precision_recall import NEIGHBOURS as MANIFOLD_NEIGHBOURS
from reals.latents.analysis.probes import NEIGHBOURS as PROBE_NEIGHBOURS
from reals.recipes.measure import Judges
from reals.recipes.schema import Recipe
from reals.recipes.stage_one import latent_side
from reals.recipes.workspace import RunDirectory
from reals.runtime.errors import UserError
from reals.runtime.shards import ShardedArrays

# The window of the structural similarity.
_SMALLEST_IMAGE = 11


def check_recipe(recipe: Recipe) -> None:
    """Check that the recipe's parts fit each other, from images to measurements.

    Raises:
        UserError: they do not, or a pretrained autoencoder is not to be had.
    """
    if recipe.data.image_size < _SMALLEST_IMAGE:
        raise UserError(f"data.image_size is {recipe.data.image_size}; measuring needs at least {_SMALLEST_IMAGE}")
    if recipe.sampling.count <= MANIFOLD_NEIGHBOURS:
        raise UserError(f"sampling.count is {recipe.sampling.count}; measuring needs {MANIFOLD_NEIGHBOURS + 1} or more")
    _check_discriminator(recipe)
    check_generator(recipe)
    side, patch = latent_side(recipe), recipe.generator.patch_size
    if side % patch:
        raise UserError(f"generator.patch_size is {patch}, which does not divide the {side}x{side} latent; change it")


def check_generator(recipe: Recipe) -> None:
    """Check that transformer, process, solver and REPA fit each other.

    Raises:
        UserError: they do not.
    """
    check_sampler(recipe.process, recipe.sampling.solver)
    transformer = recipe.generator
    if isinstance(recipe.process, GaussianDiffusion):
        wanted = isinstance(recipe.process.variance, LearnedRange)
        if transformer.variance != wanted:
            raise UserError(
                f"generator.variance is {transformer.variance}, but process.variance is "
                f"{type(recipe.process.variance).__name__}; set generator.learn-sigma and generator.variance "
                f"to {wanted}"
            )
    elif transformer.variance:
        raise UserError("generator.variance is True, but flow matching has no variance; set it to False")
    check_repa(recipe)


def check_repa(recipe: Recipe) -> None:
    """Check that the transformer has the block whose tokens REPA aligns.

    Raises:
        UserError: it has fewer.
    """
    block, depth = recipe.generator_training.repa.block, recipe.generator.depth
    if recipe.repa and block > depth:
        raise UserError(
            f"generator_training.repa.block is {block}, but the transformer has {depth} blocks; give one of them"
        )


def _check_discriminator(recipe: Recipe) -> None:
    game, equivariance = recipe.objective.adversarial, recipe.equivariance
    if game.weight == 0.0:
        return
    smallest = recipe.data.image_size * (equivariance.smallest_scale if equivariance.weight > 0.0 else 1.0)
    needed = game.discriminator.smallest_side
    if smallest < needed:
        raise UserError(
            f"the discriminator would see images of {smallest:.0f} pixels and needs {needed}; "
            "lower objective.adversarial.discriminator.layers, or raise equivariance.smallest-scale"
        )


def check_networks(recipe: Recipe, run: RunDirectory, device: torch.device, *, aligned: bool) -> None:
    """Check that the networks that stage 1 trains against are to be had, unless what they give is there.

    Raises:
        UserError: one cannot be loaded.
    """
    cached = ShardedArrays.complete(run.features)
    if ((aligned and recipe.aligns) or recipe.repa) and not cached:
        recipe.semantic.build(device)
    if recipe.objective.perceptual > 0.0:
        recipe.objective.perceptual_network.build(device)
    if recipe.objective.adversarial.weight > 0.0:
        recipe.objective.adversarial.discriminator.build()


def check_photos(recipe: Recipe, store: ImageStore) -> None:
    """Check that there are enough photos, of enough classes, to measure anything.

    Raises:
        UserError: there are not.
    """
    least = {
        "train on": (len(store.train), PROBE_NEIGHBOURS if store.labelled else MANIFOLD_NEIGHBOURS + 1),
        "hold out": (len(store.held_out), MANIFOLD_NEIGHBOURS + 1),
    }
    for purpose, (found, needed) in least.items():
        if found < needed:
            raise UserError(
                f"{store.directory}: {found} photos to {purpose}; measuring needs at least {needed}: "
                "give more photos, or another data.held_out_fraction"
            )
    if store.labelled and len(np.unique(store.labels[Judges(recipe, store, ()).probe_rows])) < 2:
        raise UserError(f"{store.directory}: the photos to train on are of one class; give several, or a flat folder")
