"""Randomness as a function of progress: a seed is derived from what it is for, never from what ran before."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part and on nothing else, on any machine and Python version."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(*parts: int | str) -> "Generator":
    """Return a CPU generator seeded by :func:`derive_seed`; CPU so that every device sees the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))


def seed_everything(*parts: int | str) -> None:
    """Seed torch's global generators (CPU and accelerators) from :func:`derive_seed`."""
    import torch

    torch.manual_seed(derive_seed(*parts))
