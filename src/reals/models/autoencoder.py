"""Image autoencoders with a Gaussian posterior: diffusers' ``AutoencoderKL``, built, loaded and saved.

Latents here are *raw*: neither shifted nor scaled. ``reals.latents.codec`` owns what lies between raw latents and a
generator.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.models.hub import check_location, quiet, unreachable
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_directory

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
else:
    # diffusers takes seconds to import: it is imported where an autoencoder is made.
    AutoencoderKL = nn.Module

_KIND = "AutoencoderKL"


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shape of an autoencoder; the defaults are SD-VAE's (downsampling 8, 4 channels, 83.65 M parameters)."""

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width of each resolution level, finest first; every level after the first halves the resolution."""
    layers_per_block: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    latent_channels: int = 4
    """Channels of the latent."""
    norm_groups: int = 32
    """Groups of each group normalisation; every width must be a multiple."""
    mid_attention: bool = True
    """Whether the lowest resolution has a self-attention layer."""

    def __post_init__(self) -> None:
        if not self.block_channels:
            raise ValueError("block_channels is empty; give the width of at least one level")
        for name in ("layers_per_block", "latent_channels", "norm_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for width in self.block_channels:
            if width < 1 or width % self.norm_groups:
                raise ValueError(f"block_channels has {width}, which is no multiple of norm_groups {self.norm_groups}")

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell, along one side."""
        return 2 ** (len(self.block_channels) - 1)

    def build(self) -> AutoencoderKL:
        """Return a randomly initialised autoencoder whose latents are not yet normalised (scaling factor 1)."""
        levels = len(self.block_channels)
        arguments: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": self.block_channels,
            "layers_per_block": self.layers_per_block,
            "latent_channels": self.latent_channels,
            "norm_num_groups": self.norm_groups,
            "mid_block_add_attention": self.mid_attention,
            "scaling_factor": 1.0,
        }
        return _autoencoder_class()(**arguments)


def load_autoencoder(location: str | Path) -> AutoencoderKL:
    """Load an autoencoder from a directory or from the hub, on the CPU, in float32, in evaluation mode.

    Raises:
        UserError: the location cannot be reached, holds another kind of model, or its weights are absent, damaged or
            do not fit its configuration.
    """
    network_class: Any = _autoencoder_class()
    location = str(location)
    check_location(location, _KIND)
    source = str(Path(location).expanduser())
    try:
        with quiet("diffusers"):
            config = network_class.load_config(source)
    except OSError as error:
        raise unreachable(location, _KIND, error) from None
    found = config.get("_class_name") if isinstance(config, dict) else None
    if found != _KIND:
        raise UserError(f"{location}: is a {found or 'model of unknown class'}, not an {_KIND}; give an {_KIND}")
    try:
        with quiet("diffusers"):
            # safetensors only: a pickle may run code.
            autoencoder, info = network_class.from_pretrained(
                source, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable(location, f"{_KIND} with safetensors weights", error) from None
    for what, names in (("lack", info["missing_keys"]), ("have the unknown", info["unexpected_keys"])):
        if names:
            raise UserError(f"{location}: its weights {what} '{names[0]}' ({len(names)} such tensors); copy it again")
    return autoencoder.eval()


def save_autoencoder(
    autoencoder: AutoencoderKL, directory: Path, extras: Iterable[Callable[[Path], object]] = ()
) -> None:
    """Write a directory that ``diffusers.AutoencoderKL.from_pretrained`` loads; it appears whole or not at all.

    Each of ``extras`` is called with the unfinished directory and writes further files into it (alignment heads,
    latent statistics). An existing directory is replaced.
    """
    with atomic_directory(directory) as temporary, quiet("diffusers"):
        autoencoder.save_pretrained(temporary, safe_serialization=True)
        for write in extras:
            write(temporary)


def posterior(
    autoencoder: AutoencoderKL, pixels: Float[Tensor, "b 3 h w"]
) -> tuple[Float[Tensor, "b c rows columns"], Float[Tensor, "b c rows columns"]]:
    """Return the mean and log-variance of q(z | x), float32 also under autocast; log-variance lies in [-30, 20]."""
    # The distribution's own mean and standard deviation have autocast's precision, too coarse for the KL term.
    moments = autoencoder.encode(pixels, return_dict=False)[0].parameters.float()
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0)


def decode(autoencoder: AutoencoderKL, latent: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b 3 h w"]:
    """Return the reconstruction of raw latents, about [-1, 1] but not clamped, in the autocast precision."""
    network: Any = autoencoder
    return network.decode(latent, return_dict=False)[0]


def downsampling(autoencoder: AutoencoderKL) -> int:
    """Return the pixels per latent cell, along one side."""
    return 2 ** (len(autoencoder.config["block_out_channels"]) - 1)


def latent_channels(autoencoder: AutoencoderKL) -> int:
    """Return the number of channels of the latent."""
    return int(autoencoder.config["latent_channels"])


def _autoencoder_class() -> type[AutoencoderKL]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Network

    return Network
