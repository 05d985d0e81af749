"""Store an autoencoder in half precision, to ship inside the package.

``reals align --data plain-scenes:8000:1 --recipe scenes64 --out runs/scenes64`` trains it without alignment, into
``runs/scenes64/base``; then ``python tools/pack_autoencoder.py runs/scenes64/base src/reals/assets/plain-scenes64``.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from reals.models.autoencoder import load_autoencoder, save_autoencoder

_LARGEST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Arguments:
    """Where from and where to."""

    source: tyro.conf.Positional[Path]
    """Directory of an AutoencoderKL."""
    target: tyro.conf.Positional[Path]
    """Directory to write, in the package."""


def main() -> None:
    """Convert and check the size."""
    arguments = tyro.cli(Arguments, description=__doc__)
    autoencoder = load_autoencoder(arguments.source)
    torch.nn.Module.to(autoencoder, dtype=torch.float16)
    save_autoencoder(autoencoder, arguments.target)
    size = sum(path.stat().st_size for path in arguments.target.iterdir())
    if size > _LARGEST_BYTES:
        sys.exit(f"{arguments.target}: {size} bytes, more than the {_LARGEST_BYTES} that a package should carry")
    sys.stdout.write(f"{arguments.target}: {size} bytes\n")


if __name__ == "__main__":
    main()
