"""Autoencoder directories as stage 1 leaves them, tiny."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from reals.latents.align import AlignConfig, AlignHeads
from reals.latents.normalise import LatentNormalisation, Standardise
from reals.latents.statistics import LatentStatistics, write_statistics
from reals.models.autoencoder import AutoencoderKL, save_autoencoder
from tests.latents import tiny

WEIGHTS = "diffusion_pytorch_model.safetensors"
STATISTICS = LatentStatistics(mean=0.3, std=1.7, min=-6.1, max=7.9, count=123)
MAP = Standardise().from_statistics(STATISTICS)


def autoencoder(seed: int = 0) -> AutoencoderKL:
    """One whose every tensor differs from its initial value."""
    network = tiny.autoencoder(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def heads() -> AlignHeads:
    """Heads for the autoencoder's latents."""
    torch.manual_seed(1)
    return AlignConfig(weight=0.5).build(tiny.CHANNELS, tiny.statistics()).eval()


def trained(directory: Path, normalisation: LatentNormalisation | None = None, aligned: bool = True) -> Path:
    """Write what stage 1 writes into ``directory`` and return it."""
    network = autoencoder()
    (normalisation or MAP).attach(network)
    extras = [lambda temporary: write_statistics(temporary, STATISTICS)]
    save_autoencoder(network, directory, [*extras, *([heads().save] if aligned else [])])
    return directory


def pixels() -> Tensor:
    """Images for it."""
    return torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(2)) * 2 - 1


def same(first: Path, second: Path, *, but: frozenset[str] = frozenset({"origin.json"})) -> bool:
    """Return whether two directories hold equal tensors to the bit and equal JSON, apart from the files in ``but``."""
    names = [{path.name for path in directory.iterdir()} - but for directory in (first, second)]
    if names[0] != names[1]:
        return False
    for name in names[0]:
        if name.endswith(".safetensors"):
            ours, theirs = load_file(first / name), load_file(second / name)
            if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
                return False
        elif _json(first / name) != _json(second / name):
            return False
    return True


def _json(path: Path) -> dict[str, object]:
    # Where it was loaded from is a note that diffusers makes.
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
