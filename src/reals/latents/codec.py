"""Between pixels and the normalised latents that a generator sees."""

import hashlib
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn

from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import AutoencoderKL, decode, downsampling, latent_channels, load_autoencoder, posterior
from reals.models.fingerprint import weights_fingerprint
from reals.runtime.pixels import Rounding, to_uint8


class LatentCodec:
    """A frozen autoencoder with its normalisation."""

    def __init__(self, autoencoder: AutoencoderKL, normalisation: LatentNormalisation):
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.normalisation = normalisation

    @classmethod
    def from_directory(cls, path: Path | str, device: torch.device | str = "cpu") -> "LatentCodec":
        """Load an autoencoder (directory or hub id) with the normalisation that its ``config.json`` holds.

        Raises:
            UserError: it cannot be loaded.
        """
        autoencoder = load_autoencoder(path)
        cast(nn.Module, autoencoder).to(device)
        return cls(autoencoder, LatentNormalisation.of(autoencoder))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, shift and scale: a generator must be decoded with the very map it was trained on."""
        numbers = f"{self.normalisation.shift!r} {self.normalisation.scale!r}"
        return hashlib.sha256(f"{weights_fingerprint(self.autoencoder)} {numbers}".encode()).hexdigest()

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell, along one side."""
        return downsampling(self.autoencoder)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return latent_channels(self.autoencoder)

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return next(self.autoencoder.parameters()).device

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "b 3 h w"], generator: Generator | None = None
    ) -> Float[Tensor, "b c rows columns"]:
        """Return one normalised posterior sample per image; ``generator`` is on the CPU, so devices agree."""
        mean, log_variance = posterior(self.autoencoder, pixels.to(self.device))
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        return self.normalisation.normalise(mean + torch.exp(0.5 * log_variance) * noise)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c rows columns"]) -> Float[Tensor, "b 3 h w"]:
        """Return the images of normalised latents, about [-1, 1] but not clamped, float32."""
        return decode(self.autoencoder, self.normalisation.denormalise(latents.to(self.device))).float()

    def decode_uint8(
        self, latents: Float[Tensor, "b c rows columns"], rounding: Rounding = "nearest"
    ) -> UInt8[np.ndarray, "b h w 3"]:
        """Return the images of normalised latents as bytes."""
        return to_uint8(self.decode(latents), rounding)
