"""Extraction of features that the processes of a ``torchrun`` launch share; the main process has the result."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float

from reals.evaluation.image_sets import ImageSet
from reals.evaluation.networks import FeatureNetwork
from reals.runtime import dist, interrupt
from reals.runtime.progress import progress


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go first: downloads and mistakes then happen once, and it alone tells of them."""
    if not dist.is_main():
        dist.barrier()
    yield
    if dist.is_main():
        dist.barrier()


def main_says(yes: bool) -> bool:
    """Return what the main process passed, in every process."""
    if dist.world_size() == 1:
        return yes
    answer = torch.tensor([int(yes)], device=_meeting_place())
    torch.distributed.broadcast(answer, src=0)
    return bool(answer.item())


def extract_shared(network: FeatureNetwork, images: ImageSet, batch_size: int) -> Float[np.ndarray, "n d"]:
    """Return the features of a set in the main process and no rows in the others; every process takes part.

    Blocks of ``batch_size`` images go round: process r takes blocks r, r + processes, and so on, so that every network
    sees the blocks that one process alone would show it. After each round the blocks' features meet, which keeps fast
    processes from waiting longer than a collective operation may. Of a set that has not been hashed, the main process
    also reads the others' images: the hash is of all pixels in order.

    Raises:
        UserError: an image is broken or of another size than the first.
        Interrupted: a signal asked the process to stop.
    """
    rank, main, total = dist.rank(), dist.is_main(), len(images)
    a_round = dist.world_size() * batch_size
    hashes = main and not images.hashed
    blocks = images.blocks(batch_size) if hashes else images.share(batch_size, rank, dist.world_size())
    features = np.empty((total if main else 0, network.dimension), np.float32)
    with progress(f"Features {network.name}", total, "images") as shown:
        for start in range(0, total, a_round):
            interrupt.stop_if_requested(f"after the features of {start} of {total} images")
            stop = min(start + a_round, total)
            part = np.zeros((stop - start, network.dimension), np.float32)
            for turn, first in enumerate(range(0, stop - start, batch_size)):
                if turn == rank:
                    part[first : first + batch_size] = network(next(blocks))
                elif hashes:
                    next(blocks)
            met = _sum_in_main(part)
            if main:
                features[start:stop] = met
            shown.advance(stop - start)
    # Beyond its last block, a pass leaves the hash of what it read.
    next(blocks, None)
    return features


def _sum_in_main(part: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "b d"]:
    """Return the sum over processes, in the main one; each row is zero in all but one, so nothing is rounded."""
    tensor = torch.from_numpy(part).to(_meeting_place())
    torch.distributed.reduce(tensor, dst=0)
    return tensor.cpu().numpy()


def _meeting_place() -> torch.device:
    """Return where tensors must lie to be exchanged."""
    if "nccl" in torch.distributed.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
