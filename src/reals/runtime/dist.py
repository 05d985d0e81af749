"""Ranks of a ``torchrun`` launch, read from the environment so that nothing here imports torch."""

import os


def rank() -> int:
    """Return this process's global rank, 0 when launched alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, 1 when launched alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes shared files and speaks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait for every process; no effect when launched alone."""
    if world_size() == 1:
        return
    import torch.distributed

    torch.distributed.barrier()
