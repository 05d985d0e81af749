"""What stage 2 trains on: batches of latents whose every random number belongs to an image's place in the run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reals.data.sampler import TrainingSampler
from reals.latents.cache import LatentCache
from reals.latents.normalise import LatentNormalisation
from reals.recipes.repa_features import GeneratorFeatures
from reals.runtime import dist
from reals.runtime.seed import derive_seed, torch_generator
from reals.training.config import LoopConfig
from reals.training.loop import Batch


@dataclass(frozen=True)
class CachedLatents:
    """A latent cache with the labels of its rows and the identity of the autoencoder that made it."""

    directory: Path
    cache: LatentCache
    labels: np.ndarray
    num_classes: int
    class_names: tuple[str, ...]
    autoencoder_fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one latent."""
        return self.cache.shape


Place = tuple[int, int, bool]
"""An image's place in the run, counted over steps and the whole batch; the row it shows; whether it is mirrored."""


class LatentViews(Dataset[dict[str, Tensor]]):
    """Whole batches of normalised latents, asked for by lists of places, with all that is random about them.

    Each place has a generator of its own, so that it does not matter which process, micro-batch or worker draws it. Of
    256 latents of 4 x 32 x 32 that takes 22 ms on one core, 3 of them for the generators; drawing the whole batch from
    one generator and slicing takes 20 ms, and each of several processes would pay them in full.
    """

    def __init__(self, latents: CachedLatents, normalisation: LatentNormalisation, seed: int, label_dropout: float):
        """Draw from ``seed``; a label becomes the null label with probability ``label_dropout``."""
        self._latents = latents
        self._normalisation = normalisation
        self._seed = derive_seed(seed, "latents", "noise")
        self._label_dropout = label_dropout

    def __len__(self) -> int:
        return len(self._latents.labels)

    def __getitem__(self, place: Place) -> dict[str, Tensor]:
        """Return one image as a batch of one."""
        return self.__getitems__([place])

    def __getitems__(self, places: list[Place]) -> dict[str, Tensor]:
        """Return the batch of an objective, and "rows" int64 [b] and "mirrored" bool [b]."""
        rows = np.array([row for _, row, _ in places], dtype=np.int64)
        mirrored = np.array([mirror for _, _, mirror in places], dtype=bool)
        normal, uniform = self._draw([place for place, _, _ in places])
        raw = self._latents.cache.sample(rows, mirrored, normal[:, 0])
        labels = torch.from_numpy(self._latents.labels[rows])
        return {
            "latents": self._normalisation.normalise(raw),
            # The null label is the one after the last class (Ho and Salimans, 2022).
            "labels": labels.where(uniform[:, 1] >= self._label_dropout, self._latents.num_classes),
            "noise": normal[:, 1].contiguous(),
            "quantile": uniform[:, 0].contiguous(),
            "rows": torch.from_numpy(rows),
            "mirrored": torch.from_numpy(mirrored),
        }

    def _draw(self, places: list[int]) -> tuple[Float[Tensor, "b 2 c h w"], Float[Tensor, "b 2"]]:
        """Return for each place two latents of normal numbers (posterior, path) and two uniform ones (time, label)."""
        shape = (2, *self._latents.shape)
        normal, uniform = torch.empty(len(places), *shape), torch.empty(len(places), 2)
        for place, gaussian, flat in zip(places, normal, uniform, strict=True):
            generator = torch_generator(self._seed, place)
            torch.randn(shape, generator=generator, out=gaussian)
            torch.rand(2, generator=generator, out=flat)
        return normal, uniform

    @staticmethod
    def collate(batch: Any) -> Any:
        """Return the batch as it is: it was collated when it was gathered. Give it to ``DataLoader(collate_fn=)``."""
        return batch


class _Places:
    """This process's micro-batches from ``step`` on, for the ``batch_sampler`` of a ``DataLoader``."""

    def __init__(self, rows: int, loop: LoopConfig, seed: int, step: int):
        self._loop = loop
        self._step = step
        self._order = TrainingSampler(
            np.arange(rows),
            loop.batch_size,
            derive_seed(seed, "latents"),
            step,
            loop.steps,
            dist.rank(),
            dist.world_size(),
            loop.accumulate,
        )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[list[Place]]:
        loop = self._loop
        for number, items in enumerate(self._order):
            step, micro_batch = self._step + number // loop.accumulate, number % loop.accumulate
            first = step * loop.batch_size + (dist.rank() * loop.accumulate + micro_batch) * len(items)
            yield [(first + index, row, mirrored) for index, (row, mirrored) in enumerate(items)]


def latent_batches(
    latents: CachedLatents,
    normalisation: LatentNormalisation,
    loop: LoopConfig,
    seed: int,
    device: torch.device,
    *,
    label_dropout: float,
    features: GeneratorFeatures | None = None,
) -> Callable[[int], Iterator[Batch]]:
    """Return batches of normalised latents: a fresh posterior sample and a fair mirror at each visit.

    With ``features``, each batch also has the semantic encoder's "patches" of the very images.
    """
    views = LatentViews(latents, normalisation, seed, label_dropout)

    def batches(step: int) -> Iterator[Batch]:
        loader = DataLoader(
            views,
            batch_sampler=_Places(len(views), loop, seed, step),
            num_workers=loop.workers,
            collate_fn=LatentViews.collate,
            pin_memory=device.type == "cuda",
            # Its own: a loader that starts draws from torch's global generator, which the loop has seeded for the step.
            generator=torch.Generator(),
        )
        for drawn in loader:
            rows, mirrored = drawn.pop("rows").numpy(), drawn.pop("mirrored").numpy()
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in drawn.items()}
            yield batch if features is None else batch | {"patches": features(rows, mirrored)}

    return batches
