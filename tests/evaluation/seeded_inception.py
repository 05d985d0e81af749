"""The FID Inception network with weights drawn per name, as the recorded values were made."""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reals.models.inception import InceptionNetwork

GOLDEN = Path(__file__).parents[1] / "golden" / "extras"
SHAPES: dict[str, list[int]] = json.loads((GOLDEN / "inception_keys.json").read_text())


def _seeded(name: str, shape: list[int]) -> Tensor:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    drawn = random.standard_normal(shape).astype(np.float32)
    if name == "fc.weight":
        drawn *= np.float32(0.05)
    elif name == "fc.bias":
        drawn *= np.float32(0.5)
    elif name.endswith("conv.weight"):
        drawn *= np.float32((2 / np.prod(shape[1:])) ** 0.5)
    elif name.endswith("running_var"):
        drawn = np.float32(0.6) + np.float32(0.4) * np.abs(drawn)
    else:
        drawn = np.float32(0.1) * drawn + np.float32(name.endswith("bn.weight"))
    return torch.from_numpy(drawn)


def seeded_weights() -> dict[str, Tensor]:
    """The state dictionary that the recorded values were made with."""
    return {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else _seeded(name, shape)
        for name, shape in SHAPES.items()
    }


@cache
def seeded_network() -> InceptionNetwork:
    """Build the network once for all tests: drawing its weights takes a second."""
    return InceptionNetwork(seeded_weights(), "seeded")
