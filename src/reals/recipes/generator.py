"""A finished diffusion transformer on disk: weights as safetensors, and what is needed to use it as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reals.diffusion.gaussian import GaussianDiffusion
from reals.diffusion.objective import FlowMatching
from reals.models.transformer import Transformer, TransformerConfig
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_directory, load_tensors, read_json, save_tensors, write_json

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_PROJECTORS = "projectors.safetensors"


@dataclass(frozen=True, kw_only=True)
class GeneratorCard:
    """What a generator is, and which latent space it lives in."""

    transformer: TransformerConfig
    latent_channels: int
    grid: int
    """Side of the latent in positions."""
    num_classes: int
    class_names: tuple[str, ...]
    """Empty for unlabelled photos."""
    autoencoder_fingerprint: str
    """Of weights and normalisation (:attr:`LatentCodec.fingerprint`); no other autoencoder can decode its samples."""
    steps: int
    """Optimiser steps it was trained for; 0 if its file did not say."""
    process: FlowMatching | GaussianDiffusion = FlowMatching()
    """What it was trained by, on which sampling depends."""

    @property
    def labelled(self) -> bool:
        """Whether guidance by a class makes sense."""
        return bool(self.class_names)

    def build(self) -> Transformer:
        """Make the untrained network."""
        return self.transformer.build(self.latent_channels, self.grid, self.num_classes)


def save_generator(
    directory: Path,
    card: GeneratorCard,
    weights: Mapping[str, torch.Tensor],
    projectors: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the directory, whole or not at all.

    Args:
        directory: the place.
        card: what it is.
        weights: the network's.
        projectors: REPA's, of an imported file, under its names; only REPA's own code wants them back.
    """
    with atomic_directory(directory) as temporary:
        save_tensors(temporary / _WEIGHTS, weights)
        if projectors:
            save_tensors(temporary / _PROJECTORS, projectors)
        write_json(temporary / _CONFIG, to_dict(card))


def load_generator(directory: Path, device: torch.device) -> tuple[Transformer, GeneratorCard]:
    """Read a generator, ready to sample.

    Raises:
        UserError: no generator is there, or its weights do not fit its card.
    """
    if not (directory / _CONFIG).exists():
        raise UserError(f"{directory}: not a generator (no {_CONFIG}); `reals train` makes one")
    card = from_dict(GeneratorCard, read_json(directory / _CONFIG), str(directory / _CONFIG))
    network = card.build()
    try:
        network.load_state_dict(load_tensors(directory / _WEIGHTS))
    except RuntimeError as error:
        raise UserError(
            f"{directory / _WEIGHTS}: does not fit {_CONFIG} ({str(error).splitlines()[-1].strip()})"
        ) from None
    return network.to(device).eval().requires_grad_(False), card


def load_projectors(directory: Path) -> dict[str, torch.Tensor]:
    """Read the projectors of an imported REPA transformer; none where none were kept."""
    path = directory / _PROJECTORS
    return load_tensors(path) if path.exists() else {}


def is_gaussian(directory: Path) -> bool:
    """Return whether a generator was trained by Gaussian diffusion; not if there is none."""
    path = directory / _CONFIG
    if not path.exists():
        return False
    return isinstance(from_dict(GeneratorCard, read_json(path), str(path)).process, GaussianDiffusion)
