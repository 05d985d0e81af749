"""A training step of the narrow autoencoder at 256 x 256 on a CPU, in the layout we train in against torch's default.

``OMP_NUM_THREADS=1 python benchmarks/memory_layout.py``. Prints JSON; ``ratio`` above 1 means that ours is faster.
Processor seconds, so that other work on the machine disturbs less; the rounds of both alternate.
"""

import copy
import json
import time
from collections.abc import Callable

import torch
from torch import nn

from reals.models.autoencoder import AutoencoderConfig, decode, posterior
from reals.models.memory_layout import PlainLayoutGroupNorm, arrange_for_training
from reals.runtime.memory import keep_freed_memory

_BATCH, _SIZE, _ROUNDS = 8, 256, 4


def main() -> None:
    """Measure the layer alone and the whole step."""
    torch.set_num_threads(1)
    keep_freed_memory()
    print(json.dumps({"group_norm": _layer(), "training_step": _step()}, indent=1))


def _layer() -> dict[str, float]:
    x = torch.randn(_BATCH, 8, _SIZE, _SIZE).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    native = nn.GroupNorm(8, 8).bfloat16()
    ours = PlainLayoutGroupNorm.of(native)
    gradient = torch.randn_like(x)
    return _compare(lambda: ours(x).backward(gradient), lambda: native(x).backward(gradient))


def _step() -> dict[str, float]:
    config = AutoencoderConfig(
        block_channels=(8, 16, 32, 64, 128), layers_per_block=1, latent_channels=16, norm_groups=8
    )
    plain = config.build()
    ours = copy.deepcopy(plain)
    arrange_for_training(ours, torch.device("cpu"))
    pixels = torch.rand(_BATCH, 3, _SIZE, _SIZE) * 2 - 1

    def step(network: nn.Module) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mean, _ = posterior(network, pixels)  # pyright: ignore[reportArgumentType]
            reconstruction = decode(network, mean)  # pyright: ignore[reportArgumentType]
        (reconstruction.float() - pixels).square().mean().backward()

    return _compare(lambda: step(ours), lambda: step(plain))


def _compare(ours: Callable[[], None], theirs: Callable[[], None]) -> dict[str, float]:
    seconds: dict[Callable[[], None], list[float]] = {ours: [], theirs: []}
    for _ in range(_ROUNDS + 1):
        for function, times in seconds.items():
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
    # The first round warms up.
    best = {function: min(times[1:]) for function, times in seconds.items()}
    return {"ours_s": best[ours], "default_s": best[theirs], "ratio": best[theirs] / best[ours]}


if __name__ == "__main__":
    main()
