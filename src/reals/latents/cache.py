"""Posteriors of every stored image, computed once: what stage 2 trains on.

Mean and log-variance are kept, not a sample, so that each visit draws a fresh one; the mirrored image is kept too,
because mirroring a latent is not encoding the mirrored image.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reals.latents.encoding import Load, encode_views
from reals.models.autoencoder import AutoencoderKL, posterior
from reals.models.fingerprint import weights_fingerprint
from reals.runtime.seed import torch_generator
from reals.runtime.shards import ShardedArrays

_NAMES = ("mean", "log_variance")


def encode_images(
    autoencoder: AutoencoderKL,
    load: Load,
    rows: int,
    directory: Path,
    *,
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, Any],
) -> None:
    """Write raw posteriors of images 0 to ``rows`` - 1 and of their mirror images, float16; resumable.

    Args:
        autoencoder: moved to ``device`` and put into evaluation mode.
        load: from row numbers to uint8 [n, h, w, 3].
        rows: number of images.
        directory: read back by :class:`LatentCache`.
        batch_size: images at once.
        device: where to encode.
        dtype: float32, or the precision of autocast.
        metadata: what identifies the images; the autoencoder's fingerprint is added.

    Raises:
        UserError: the directory holds posteriors of another autoencoder or of other images.
    """
    cast(nn.Module, autoencoder).to(device).eval()

    def encode(pixels: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        return dict(zip(_NAMES, posterior(autoencoder, pixels), strict=True))

    encode_views(
        directory,
        np.arange(rows),
        load,
        encode,
        names=_NAMES,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        metadata={**metadata, "autoencoder": weights_fingerprint(autoencoder)},
        description="encoding images",
    )


class LatentCache:
    """Reads what :func:`encode_images` wrote."""

    def __init__(self, directory: Path):
        """Open ``directory``.

        Raises:
            UserError: the directory is absent or incomplete.
        """
        self._arrays = ShardedArrays(directory)
        self.metadata = self._arrays.metadata

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def autoencoder(self) -> str:
        """Fingerprint of the autoencoder's weights."""
        return self.metadata["autoencoder"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a latent."""
        channels, rows, columns = self._arrays.gather("mean", np.zeros(1, np.int64), 0).shape[1:]
        return channels, rows, columns

    def posterior(
        self, rows: Int[np.ndarray, " b"], mirrored: Bool[np.ndarray, " b"] | bool = False
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return raw mean and log-variance, float32, of images or, where ``mirrored``, of their mirror images."""
        view = mirrored.astype(np.int64) if isinstance(mirrored, np.ndarray) else int(mirrored)
        mean, log_variance = (torch.from_numpy(self._arrays.gather(name, rows, view)).float() for name in _NAMES)
        return mean, log_variance

    def sample(
        self,
        rows: Int[np.ndarray, " b"],
        mirrored: Bool[np.ndarray, " b"] | bool,
        noise: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """Return raw latents mean + deviation · noise."""
        mean, log_variance = self.posterior(rows, mirrored)
        return mean + torch.exp(0.5 * log_variance) * noise

    def samples(
        self, rows: Int[np.ndarray, " n"], batch_size: int = 500, seed: int = 0
    ) -> Iterator[Float[Tensor, "b c h w"]]:
        """Yield one raw latent of each image, in batches; for statistics and analyses."""
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            generator = torch_generator("latent samples", seed, start)
            yield self.sample(chosen, False, torch.randn((len(chosen), *self.shape), generator=generator))
