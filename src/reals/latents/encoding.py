"""Running a frozen network once over stored images, as they are and mirrored, into shards."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from reals.runtime import dist, interrupt
from reals.runtime.pixels import to_pixels
from reals.runtime.progress import Progress, progress
from reals.runtime.shards import write_shards

Load = Callable[[np.ndarray], np.ndarray]
"""From store rows to images, uint8 [n, h, w, 3]."""

_ROWS_PER_SHARD = 1024
VIEWS = 2
"""The image and its mirror image, in this order, along the second axis of every cached array."""


def encode_views(
    directory: Path,
    rows: np.ndarray,
    load: Load,
    encode: Callable[[Float[Tensor, "b 3 h w"]], Mapping[str, Tensor]],
    *,
    names: tuple[str, ...],
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
    metadata: Mapping[str, Any],
    description: str,
    extra: Callable[[int, int], Mapping[str, np.ndarray]] = lambda start, stop: {},
) -> None:
    """Fill ``directory`` with float16 arrays [n, 2, ...]: what ``encode`` says of each image and of its mirror image.

    An interrupted call continues where it stopped; under ``torchrun`` the processes share the work.

    Args:
        directory: filled.
        rows: store rows to encode, in order.
        load: reads images.
        encode: from pixels in [-1, 1] on ``device`` to tensors named ``names``, one row per image.
        names: of the arrays from ``encode`` and ``extra`` together.
        batch_size: images at once; the result does not depend on it.
        device: where ``encode`` runs.
        dtype: float32, or autocast's precision.
        metadata: what the arrays depend on; another value in an existing directory is an error.
        description: shown with the progress, in images per second.
        extra: further arrays of a range of positions.
    """
    place = torch.device(device)

    def encode_batch(chosen: np.ndarray) -> list[Mapping[str, Tensor]]:
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(load(chosen))).to(place))
        with torch.no_grad(), torch.autocast(place.type, dtype=dtype, enabled=dtype != torch.float32):
            return [encode(pixels), encode(pixels.flip(-1))]

    with ExitStack() as stack:
        shown = _LazyProgress(stack, description, _share(len(rows)))

        def produce(start: int, stop: int) -> Mapping[str, np.ndarray]:
            extras = dict(extra(start, stop))
            batches: list[dict[str, np.ndarray]] = []
            for first in range(start, stop, batch_size):
                interrupt.stop_if_requested(f"after {first} of {len(rows)} images of {directory}")
                chosen = rows[first : min(first + batch_size, stop)]
                views = encode_batch(chosen)
                batches.append({name: _stack(views, name) for name in names if name not in extras})
                shown.advance(len(chosen))
            return extras | {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

        write_shards(
            directory,
            len(rows),
            produce,
            names=names,
            rows_per_shard=_ROWS_PER_SHARD,
            metadata={**metadata, "precision": str(dtype).removeprefix("torch.")},
            on_rows=shown.note_shard,
        )


class _LazyProgress:
    """Starts its clock at the first new row, so that shards kept from an earlier run do not count as speed."""

    def __init__(self, stack: ExitStack, description: str, total: int):
        self._stack, self._description, self._total = stack, description, total
        self._kept = 0
        self._unreported = 0
        self._shown: Progress | None = None

    def advance(self, count: int) -> None:
        if self._shown is None:
            made = progress(self._description, self._total, "images", done=self._kept)
            self._shown = self._stack.enter_context(made)
        self._shown.advance(count)
        self._unreported += count

    def note_shard(self, count: int) -> None:
        """Be told of a finished shard: an old one is progress, a new one has been counted row by row already."""
        if self._unreported:
            self._unreported = 0
        elif self._shown is None:
            self._kept += count
        else:
            self._shown.advance(count)


def _stack(views: list[Mapping[str, Tensor]], name: str) -> np.ndarray:
    return torch.stack([view[name] for view in views], dim=1).to(torch.float16).cpu().numpy()


def _share(rows: int) -> int:
    """Return how many of the rows this process encodes: every ``world_size``-th shard."""
    starts = range(dist.rank() * _ROWS_PER_SHARD, rows, dist.world_size() * _ROWS_PER_SHARD)
    return sum(min(_ROWS_PER_SHARD, rows - start) for start in starts)
