"""Extraction of features that the processes of a ``torchrun`` launch share; the main process has the result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float, UInt8

from reals.evaluation.feature_parts import FeatureParts
from reals.evaluation.image_sets import DIGEST_BYTES, ImageSet
from reals.evaluation.networks import FeatureNetwork
from reals.runtime import dist, interrupt
from reals.runtime.progress import progress

_LONGEST_DOWNLOAD = timedelta(hours=12)


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go first: downloads and mistakes then happen once, and it alone tells of them.

    However long it takes: the others wait outside the launch's own group, whose patience, ten minutes with NCCL, is
    meant for collective operations. They learn at once if the main process ends.
    """
    if dist.world_size() == 1:
        yield
        return
    waiting = torch.distributed.new_group(backend="gloo", timeout=_LONGEST_DOWNLOAD)
    assert isinstance(waiting, torch.distributed.ProcessGroup)
    if not dist.is_main():
        torch.distributed.barrier(waiting)
    yield
    if dist.is_main():
        torch.distributed.barrier(waiting)
    torch.distributed.destroy_process_group(waiting)


def main_says(yes: bool) -> bool:
    """Return what the main process passed, in every process."""
    return bool(_main_counts(int(yes)))


def _main_counts(number: int) -> int:
    if dist.world_size() == 1:
        return number
    answer = torch.tensor([number], device=_meeting_place())
    torch.distributed.broadcast(answer, src=0)
    return int(answer.item())


def main_tells(text: str) -> str:
    """Return what the main process passed, in every process."""
    if dist.world_size() == 1:
        return text
    told = [text]
    torch.distributed.broadcast_object_list(told, src=0, device=_meeting_place())
    return told[0]


def extract_shared(
    network: FeatureNetwork, images: ImageSet, batch_size: int, parts: FeatureParts | None = None
) -> Float[np.ndarray, "n d"]:
    """Return the features of a set in the main process and no rows in the others; every process takes part.

    Blocks of ``batch_size`` images go round: process r takes blocks r, r + processes, and so on, so that every network
    sees the blocks that one process alone would show it, and each image is read by one process. With ``parts`` in the
    main process, what an earlier call has kept there is not computed again.

    Raises:
        UserError: an image is broken or of another size than the first.
        Interrupted: a signal asked the process to stop; ``parts`` keep what was done.
    """
    known = np.empty((0, network.dimension), np.float32) if parts is None else parts.rows()
    # Whole blocks only, lest the next ones be others than without a stop.
    begun = _main_counts(min(len(known), len(images)) // batch_size * batch_size)
    seen = np.empty((len(images) if dist.is_main() else 0, network.dimension), np.float32)
    seen[:begun] = known[:begun]
    with progress(f"Features {network.name}", len(images), "images", done=begun) as shown:
        for start, stop, rows in _in_turns(images, batch_size, network, network.dimension, begun):
            if dist.is_main():
                seen[start:stop] = rows
                if parts is not None:
                    parts.offer(seen[:stop])
            shown.advance(stop - start)
    return seen


def hash_shared(images: ImageSet, batch_size: int) -> None:
    """Read a set so that the main process, perhaps the only one, knows its fingerprint; every process takes part.

    Raises:
        UserError: an image is broken or of another size than the first.
        Interrupted: a signal asked the process to stop.
    """
    with progress(f"Hashing {images.location}", len(images), "images") as shown:
        for start, stop, _ in _in_turns(images, batch_size, lambda block: np.empty((len(block), 0), np.float32), 0, 0):
            shown.advance(stop - start)


def _in_turns(
    images: ImageSet,
    batch_size: int,
    look: Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b d"]],
    dimension: int,
    begun: int,
) -> Iterator[tuple[int, int, Float[np.ndarray, "n d"]]]:
    """Yield what ``look`` makes of images from ``begun`` on, by rounds, as ``(start, stop, rows)``.

    The rows meet in the main process after each round, which keeps fast processes from waiting longer than a
    collective operation may; the others get none. The main process's set learns the digests of all.
    """
    rank, total = dist.rank(), len(images)
    a_round, width = dist.world_size() * batch_size, 4 * dimension
    blocks = images.blocks(batch_size, begun // batch_size + rank, dist.world_size())
    for start in range(begun, total, a_round):
        interrupt.stop_if_requested(f"after {start} of {total} images of {images.location}")
        stop = min(start + a_round, total)
        # All send equally many rows; those beyond the last image are dropped.
        rows = np.zeros((batch_size, width + DIGEST_BYTES), np.uint8)
        first = start + rank * batch_size
        if first < stop:
            found = np.ascontiguousarray(look(next(blocks)), np.float32)
            rows[: len(found), :width] = found.view(np.uint8)
            rows[: len(found), width:] = images.digests(first, first + len(found))
        met = _gather_in_main(rows)[: stop - start]
        if dist.is_main():
            images.learn(start, met[:, width:])
        yield start, stop, np.ascontiguousarray(met[:, :width]).view(np.float32)


def _gather_in_main(rows: UInt8[np.ndarray, "b d"]) -> UInt8[np.ndarray, "n d"]:
    """Return the rows of all processes, by rank, in the main one, and none in the others."""
    if dist.world_size() == 1:
        return rows
    own = torch.from_numpy(rows).to(_meeting_place())
    met = [torch.empty_like(own) for _ in range(dist.world_size())] if dist.is_main() else None
    torch.distributed.gather(own, met, dst=0)
    return rows[:0] if met is None else torch.cat(met).cpu().numpy()


def _meeting_place() -> torch.device:
    """Return where tensors must lie to be exchanged."""
    if "nccl" in torch.distributed.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
