"""The smallest latent space that stage 2 can be trained in: 40 scenes of 16 pixels, an untrained autoencoder.

As a program, ``latent_space.py ROOT OUT LOOP [BACKEND]`` trains a generator with alignment, LOOP being JSON settings:
as ``torchrun`` starts it, or compiled for torch's BACKEND, which checked types would prevent.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reals.data.store import ImageStore
from reals.diffusion.repa import RepaConfig
from reals.models.autoencoder import AutoencoderConfig, save_autoencoder
from reals.models.transformer import TransformerConfig
from reals.recipes.data import prepare_store
from reals.recipes.features import ComputedFeatures
from reals.recipes.generator_training import GeneratorTraining
from reals.recipes.latent_batches import CachedLatents
from reals.recipes.presets import preset
from reals.recipes.repa_features import GeneratorFeatures
from reals.recipes.schema import DataConfig, Recipe
from reals.recipes.stage_one import export_autoencoder
from reals.recipes.stage_two import encode_store, open_latents, train_generator
from reals.runtime.seed import seed_everything
from reals.training.trackers import NoTracker
from tests.latents.tiny import Encoder

CPU = torch.device("cpu")


def recipe(**loop: Any) -> Recipe:
    """Return a recipe of few steps, with ``loop``'s settings."""
    small = preset("debug")
    return replace(
        small,
        data=DataConfig(image_size=16, held_out_fraction=0.2),
        generator=TransformerConfig(depth=2, width=16, heads=2, patch_size=2, label_dropout=0.3),
        stage2=replace(small.stage2, **({"steps": 4, "log_every": 1, "ema_decay": 0.5} | loop)),
    )


def make(root: Path) -> None:
    """Make photos, autoencoder and latents."""
    store = prepare_store("scenes:40", root / "images", recipe().data)
    seed_everything(0, "test")
    autoencoder = AutoencoderConfig(
        block_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_groups=4, mid_attention=False
    ).build()
    save_autoencoder(autoencoder, root / "plain")
    export_autoencoder(recipe(), autoencoder, None, store, root / "autoencoder", CPU)
    encode_store(recipe(), store, root / "autoencoder", root / "latents", CPU)


def computed_features(store: ImageStore) -> GeneratorFeatures:
    """Return mean colours, computed at each visit, on the latent grid."""
    return GeneratorFeatures(ComputedFeatures(Encoder(), (8, 8), store, store.train, CPU), store, CPU)


def train(root: Path, out: Path, latents: CachedLatents, settings: dict[str, Any], **more: Any) -> Path:
    """Train a generator and return its directory; ``settings`` are the loop's, ``more`` is ``train_generator``'s."""
    options = more.pop("options", GeneratorTraining(tracker=NoTracker()))
    settled = replace(recipe(**settings), generator_training=options)
    train_generator(settled, latents, root / "autoencoder", out / "training", out / "generator", CPU, **more)
    return out / "generator"


def main() -> None:
    """Train with alignment, so that features, too, must be those of this process's images."""
    from reals.recipes.pipeline import prepare_process

    root, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    backend = sys.argv[4] if len(sys.argv) > 4 else None
    prepare_process()
    if backend is not None:
        compile_in_place = torch.nn.Module.compile
        torch.nn.Module.compile = lambda self: compile_in_place(self, backend=backend, fullgraph=True)
    repa = RepaConfig(weight=0.5, block=1, hidden=8)
    options = GeneratorTraining(repa=repa, tracker=NoTracker(), compile=backend is not None)
    features = computed_features(ImageStore(root / "images"))
    train(root, out, open_latents(root / "latents"), settings, options=options, features=features)
    if backend is not None:
        sys.stdout.write(json.dumps(sum(torch._dynamo.utils.counters["stats"].values())))


if __name__ == "__main__":
    main()
