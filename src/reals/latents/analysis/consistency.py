"""Semantic Consistency (ReaLS, Algorithm 1): do latents of two views of one image stay alike?

The raw number flatters: alignment writes a position template into every latent, so that latents of different images
grow alike too. It is therefore always given beside the similarity between different images, and once more after the
template, the mean latent at each position, has been subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from reals.latents.analysis.augmentations import Augmentation
from reals.runtime import interrupt
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress
from reals.runtime.seed import torch_generator


@dataclass(frozen=True, eq=False)
class ConsistencyResult:
    """Cosine similarities, one per image, each in [-1, 1]."""

    raw: Float[np.ndarray, " n"]
    """Between two views of the same image: the paper's Semantic Consistency."""
    raw_between: Float[np.ndarray, " n"]
    """Between a view of each image and one of the next image: what likeness is worth in this space."""
    centred: Float[np.ndarray, " n"]
    """As ``raw``, after subtracting the position template."""
    centred_between: Float[np.ndarray, " n"]
    """As ``raw_between``, after subtracting the position template."""


@torch.no_grad()
def semantic_consistency(
    encode: Callable[[Tensor], Tensor],
    images: UInt8[np.ndarray, "n h w 3"],
    augmentation: Augmentation,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> ConsistencyResult:
    """Measure the similarity of flattened latents of two augmented views of each image.

    ``encode`` maps pixels [b, 3, h, w] in [-1, 1] to latents [b, c, h', w']. Views depend on (seed, image, view) only,
    so all latent spaces are shown the same ones. "Between" pairs the first view of image ``i`` with the second view of
    image ``i + 1``, the last with the first.

    Raises:
        ValueError: fewer than two images.
        Interrupted: a signal asked the process to stop.
    """
    count = len(images)
    if count < 2:
        raise ValueError(f"consistency between different images needs at least two images, found {count}")
    views: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with progress(f"Consistency under {type(augmentation).__name__}", count, "images") as shown:
        for start in range(0, count, batch_size):
            interrupt.stop_if_requested("while measuring semantic consistency")
            pixels = to_pixels(images[start : start + batch_size])
            for view, collected in enumerate(views):
                augmented = torch.stack(
                    [
                        augmentation.view(image, view, torch_generator("consistency", seed, start + offset, view))
                        for offset, image in enumerate(pixels)
                    ]
                )
                collected.append(encode(augmented).flatten(1).float().cpu().numpy())
            shown.advance(len(pixels))
    first, second = (np.concatenate(collected) for collected in views)
    template = (first.mean(0, dtype=np.float64) + second.mean(0, dtype=np.float64)) / 2
    neighbour = np.roll(second, -1, axis=0)
    return ConsistencyResult(
        raw=_cosine(first, second),
        raw_between=_cosine(first, neighbour),
        centred=_cosine(first - template, second - template),
        centred_between=_cosine(first - template, neighbour - template),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(axis=1) / np.maximum(norms, 1e-12)


def position_share(latents: Float[np.ndarray, "n c h w"]) -> float:
    """Return the share of the latents' variance that position alone explains, in [0, 1].

    The variance over positions of the mean latent, summed over channels, divided by the variance of the latents around
    their channel means. With ``n`` images that have no template at all the expected share is about ``1 / n``.

    Raises:
        ValueError: the latents do not vary.
    """
    values = latents.astype(np.float64)
    template = values.mean(axis=0)
    total = values.var(axis=(0, 2, 3)).sum()
    if total == 0:
        raise ValueError("latents that do not vary have no variance to share")
    return float(template.var(axis=(1, 2)).sum() / total)
