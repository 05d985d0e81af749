"""Reconstructions against their originals, image by image: PSNR, SSIM and LPIPS of two sets in the same order."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reals.evaluation.bootstrap import Estimate, mean_estimate
from reals.evaluation.float32 import true_float32
from reals.evaluation.image_sets import ImageSet
from reals.evaluation.measures import Settings
from reals.evaluation.reconstruction import SSIM_WINDOW, psnr, ssim
from reals.runtime import interrupt
from reals.runtime.errors import UserError
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import progress

_BATCH_SIZE = 64


@runtime_checkable
class ImageDistance(Protocol):
    """A distance of pairs of images, such as LPIPS."""

    fingerprint: str
    """SHA-256 of its weights."""

    def distances(self, images: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Return the distance of each pair, of pixels in [-1, 1]."""
        ...


def paired_estimates(
    originals: ImageSet, reconstructions: ImageSet, lpips: ImageDistance | None, settings: Settings
) -> tuple[dict[str, Estimate], list[str]]:
    """Return the mean ``psnr``, ``ssim`` and, with its network, ``lpips`` of equally sized sets; and warnings.

    Raises:
        UserError: the sets have different numbers of images.
    """
    check_pairs(originals, reconstructions)
    parts: dict[str, list[np.ndarray]] = {}
    with progress("Reconstructions", len(originals), "images") as shown:
        for images, others in _pairs(originals, reconstructions, settings.device):
            interrupt.stop_if_requested("while comparing reconstructions")
            for name, values in _measure(images, others, lpips).items():
                parts.setdefault(name, []).append(values)
            shown.advance(len(images))
    values = {name: np.concatenate(some) for name, some in parts.items()}
    warnings = []
    perfect = int(np.isinf(values["psnr"]).sum())
    if perfect:
        warnings.append(f"psnr is not reported: {perfect} reconstructions are perfect, and theirs is infinite")
        del values["psnr"]
    if "ssim" not in values:
        warnings.append(f"ssim is not reported: its window needs images of at least {SSIM_WINDOW} pixels")
    estimates = {
        name: mean_estimate(some, replicates=settings.replicates, seed=settings.seed) for name, some in values.items()
    }
    return estimates, warnings


def check_pairs(originals: ImageSet, reconstructions: ImageSet) -> None:
    """Check that reconstructions can be told to be of these originals, by number, and by name where files have names.

    Raises:
        UserError: there are more or fewer of them, a name stands in another place, or files are numbered in a way that
            their order, that of text, is another than that of their numbers.
    """
    if len(originals) != len(reconstructions):
        raise UserError(
            f"{originals.location} holds {len(originals)} images, {reconstructions.location} {len(reconstructions)}; "
            "reconstructions need their originals, in the same order"
        )
    names = [_stems(originals), _stems(reconstructions)]
    for images, stems in zip((originals, reconstructions), names, strict=True):
        numbers = [int(stem) for stem in stems if stem.isdecimal()]
        fallen = next((place for place in range(1, len(numbers)) if numbers[place] < numbers[place - 1]), None)
        if len(numbers) == len(images) and fallen is not None:
            raise UserError(
                f"{images.location}: names are in the order of text, {numbers[fallen - 1]} comes before "
                f"{numbers[fallen]}; pad numbers with zeros, so that reconstructions meet their originals"
            )
    if set(names[0]) & set(names[1]):
        for original, other in zip(*names, strict=True):
            if original != other:
                raise UserError(
                    f"{originals.location} has {original} where {reconstructions.location} has {other}; give every "
                    "reconstruction the name of its original"
                )


def _stems(images: ImageSet) -> list[str]:
    return [name.rpartition(".")[0] or name for name in images.names]


def _pairs(originals: ImageSet, reconstructions: ImageSet, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    blocks = originals.blocks(_BATCH_SIZE), reconstructions.blocks(_BATCH_SIZE)
    for one, other in zip(*blocks, strict=True):
        yield to_pixels(torch.from_numpy(one).to(device)), to_pixels(torch.from_numpy(other).to(device))


def _measure(images: Tensor, others: Tensor, lpips: ImageDistance | None) -> dict[str, np.ndarray]:
    found = {"psnr": psnr(images, others)}
    if min(images.shape[2:]) >= SSIM_WINDOW:
        found["ssim"] = ssim(images, others)
    if lpips is not None:
        found["lpips"] = image_distances(lpips, images, others)
    return found


def image_distances(
    lpips: ImageDistance, images: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]
) -> Float[np.ndarray, " b"]:
    """Return the distance of each pair, of pixels in [-1, 1] on the network's device, computed in float32."""
    with true_float32():
        return lpips.distances(images, others).cpu().double().numpy()
