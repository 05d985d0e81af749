"""Ranks of a ``torchrun`` launch, read from the environment so that nothing here imports torch before it must."""

import os
import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.distributed

_REACH_SECONDS = 5.0


def rank() -> int:
    """Return this process's global rank, 0 when launched alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes, 1 when launched alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Return the number of processes on this machine, 1 when launched alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process writes shared files and speaks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait for every process; no effect when launched alone."""
    if world_size() == 1:
        return
    import torch.distributed

    torch.distributed.barrier()


def leave() -> None:
    """Leave the other processes, if this one has joined them: one that ends without may crash on the way out."""
    distributed = sys.modules.get("torch.distributed")
    if world_size() > 1 and distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def first_to_stop() -> bool:
    """Note that this process stops early for a known reason; return whether it is the first, which tells the user."""
    store = _launcher_store()
    if store is None:
        return is_main()
    with suppress(RuntimeError):
        return store.add(_stopped(), 1) == 1
    return is_main()


def another_stopped() -> bool:
    """Return whether another process has stopped for a known reason, which explains why waiting for it failed."""
    store = _launcher_store()
    if store is None:
        return False
    with suppress(RuntimeError):
        return store.add(_stopped(), 0) > 0
    return False


def _launcher_store() -> "torch.distributed.Store | None":  # pyright: ignore[reportPrivateImportUsage]
    """Return what ``torchrun`` keeps for all processes of a launch, before and after they join, or None without it."""
    if world_size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    import torch.distributed

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # The launcher may be gone already: its error for that is a RuntimeError.
    with suppress(RuntimeError):
        return torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            address, port, is_master=False, timeout=timedelta(seconds=_REACH_SECONDS)
        )
    return None


def _stopped() -> str:
    return f"reals/stopped/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
