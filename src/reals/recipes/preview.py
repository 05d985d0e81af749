"""A look at the generator while it is trained: samples of its moving average, and how far they are from the photos."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from reals.apps.grid import image_grid, save_png
from reals.data.store import ImageStore
from reals.evaluation.frechet import GaussianStatistics, frechet_distance, gaussian_statistics
from reals.evaluation.networks import FeatureNetwork, extract
from reals.runtime import dist
from reals.runtime.memory import images_at_once
from reals.runtime.seed import derive_seed
from reals.training.loop import Hook
from reals.training.state import TrainState

_BATCH = 250
_LARGEST_ENLARGED = 64

PreviewSample = Callable[[nn.Module, int], UInt8[np.ndarray, "n h w 3"]]
"""From the averaged network, ready to sample, and a number to so many images; its seeds are the same at every look."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """How often the generator is looked at while it is trained, and how closely."""

    every: int = 0
    """Steps between two looks, 0 for none."""
    images: int = 1000
    """Samples measured at each look. Distances of few images are too large: compare those of equally many."""
    shown: int = 64
    """How many of them the picture shows."""
    reference_images: int = 10_000
    """Training photos that they are compared with, at most."""

    def __post_init__(self) -> None:
        for name, least in {"every": 0, "images": 2, "shown": 1, "reference_images": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


class Preview:
    """What the looks at one training run share; the photos' statistics are computed at the first of them."""

    def __init__(
        self, config: PreviewConfig, sample: PreviewSample, judge: FeatureNetwork, store: ImageStore, seed: int
    ):
        """Compare what ``sample`` makes with training photos of ``store``, as ``judge`` sees them.

        ``seed`` chooses the photos where there are more than are asked for.
        """
        self.config = config
        self._sample = sample
        self._judge = judge
        self._store = store
        self._seed = seed

    @cached_property
    def _photos(self) -> GaussianStatistics:
        """The reference; photos in class folders are sorted by class, so the first ones will not do."""
        generator = np.random.default_rng(derive_seed(self._seed, "preview photos"))
        rows = np.sort(generator.permutation(self._store.train)[: self.config.reference_images])
        at_once = images_at_once(self._store.size, _BATCH)
        blocks = (self._store.load(rows[start : start + at_once]) for start in range(0, len(rows), at_once))
        return gaussian_statistics(extract(self._judge, blocks, total=len(rows), batch_size=at_once))

    def hook(self, network: Callable[[TrainState], nn.Module], directory: Path) -> Hook:
        """Return the hook for :func:`reals.training.loop.fit`.

        Every process is asked for the averaged network, which may be spread over them; the main one samples it.

        Args:
            network: makes the averaged network of a state, apart from the one that is trained.
            directory: receives ``step-STEP.png``.
        """

        def look(state: TrainState) -> dict[str, float] | None:
            if self.config.every == 0 or state.step % self.config.every:
                return None
            averaged = network(state)
            return self._look(averaged, directory / f"step-{state.step:09d}.png") if dist.is_main() else {}

        return look

    @torch.no_grad()
    def _look(self, network: nn.Module, picture: Path) -> dict[str, float]:
        """Sample, draw and measure."""
        images = self._sample(network.eval(), self.config.images)
        shown = images[: self.config.shown]
        scale = max(1, _LARGEST_ENLARGED // images.shape[1])
        save_png(picture, image_grid(shown, columns=int(np.ceil(np.sqrt(len(shown)))), scale=scale))
        made = gaussian_statistics(extract(self._judge, images))
        # Its name is that of the network: it is no FID.
        return {f"fd/{self._judge.name}": frechet_distance(self._photos, made)}
