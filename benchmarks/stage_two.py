"""A training step of SiT in images per second, by the package's loop and as the published scripts run it, in one run.

``OMP_NUM_THREADS=1 python benchmarks/stage_two.py`` (S/2 on a CPU, minutes) or, on a GPU,
``python benchmarks/stage_two.py --size XL --batch 64 --steps 10 --encoded 32 --compile``. Prints JSON; a
``ratio`` above 1 means that ours is faster.

The published way is SiT's: separate operations for the modulation, AdamW as torch makes it, an average in a loop over
tensors, the loss read in every step; in float32 (TF32 on a GPU), with the autoencoder's encoder in the loop. Here it is
given latents that lie in memory already, the cost of encoding is measured by itself and added, and it is run in our
precision too, so that the sources of the gain can be told apart. Both train copies of the same weights on one device;
rounds alternate and the fastest counts. On a CPU seconds are the processor's.
"""

import copy
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import tyro
from accelerate.state import AcceleratorState
from torch import nn

from published_sit import PublishedTrainer
from reals.diffusion.objective import FlowMatching
from reals.latents.cache import LatentCache
from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import AutoencoderConfig, posterior
from reals.models.transformer import NamedTransformer, SizeName, Transformer
from reals.recipes.latent_batches import CachedLatents, latent_batches
from reals.runtime.flops import TRAINING_FACTOR, known_peak, measured_peak, processor_seconds, transformer_flops
from reals.runtime.memory import keep_freed_memory
from reals.runtime.shards import write_shards
from reals.training.config import MAIN, LoopConfig
from reals.training.ema import MovingAverage
from reals.training.loop import Batch, fit
from reals.training.optimisers import Optimisers
from reals.training.precision import autocast_dtype
from reals.training.state import TrainState

_CLASSES = 1000
_SHAPE = (4, 32, 32)
_PIXELS = 256
_ROWS = 512
_LEARNING_RATE = 1e-4
_LABEL_DROPOUT = 0.1


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    size: SizeName = "S"
    """Size of the transformer; its patches are 2 x 2."""
    batch: int = 8
    """Images per step."""
    rounds: int = 3
    """Rounds counted, after one that is not."""
    steps: int = 1
    """Steps per round."""
    encoded: int = 1
    """Images encoded at once where encoding is measured; 0 leaves it out."""
    compile: bool = False
    """Compile our network with torch.compile."""


class Stopped(Exception):
    """The rounds are over; the loop need not save."""


class Rounds:
    """A hook that runs the other way's steps between those of our loop, and keeps the seconds per step of both."""

    def __init__(self, other: Callable[[], object], arguments: Arguments, device: torch.device):
        self._other = other
        self._arguments = arguments
        self._device = device
        self._resumed = 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def __call__(self, state: TrainState) -> None:
        steps = self._arguments.steps
        if state.step % steps:
            return
        stopped = processor_seconds(self._device)
        self.ours.append((stopped - self._resumed) / steps)
        for _ in range(steps):
            self._other()
        self._resumed = processor_seconds(self._device)
        self.theirs.append((self._resumed - stopped) / steps)
        if len(self.theirs) > self._arguments.rounds:
            raise Stopped


def synthetic_latents(directory: Path) -> CachedLatents:
    """Return cached posteriors of images that never were."""
    generator = np.random.default_rng(0)
    shape = (_ROWS, 2, *_SHAPE)

    def produce(start: int, stop: int) -> dict[str, np.ndarray]:
        mean = generator.standard_normal(shape, dtype=np.float32).astype(np.float16)[start:stop]
        return {"mean": mean, "log_variance": np.full_like(mean, -4.0)}

    write_shards(directory, _ROWS, produce, names=("mean", "log_variance"), rows_per_shard=_ROWS, metadata={})
    labels = generator.integers(0, _CLASSES, _ROWS)
    return CachedLatents(directory, LatentCache(directory), labels, _CLASSES, (), "none")


class Comparison:
    """Both ways of training one network in one precision."""

    def __init__(self, arguments: Arguments, device: torch.device, dtype: torch.dtype, latents: CachedLatents):
        self.arguments, self.device, self.dtype = arguments, device, dtype
        torch.manual_seed(0)
        self.network = NamedTransformer(size=arguments.size).config().build(_SHAPE[0], _SHAPE[1], _CLASSES).to(device)
        self.loop = LoopConfig(
            # One more than there will be, so that the loop is left before its last step, and saves nothing.
            steps=(arguments.rounds + 1) * arguments.steps + 1,
            batch_size=arguments.batch,
            learning_rate=_LEARNING_RATE,
            precision="float32" if dtype == torch.float32 else "bfloat16",
            log_every=100,
            checkpoint_every=10**6,
        )
        self.batches = latent_batches(
            latents, LatentNormalisation(shift=0.0, scale=1.0), self.loop, 0, device, label_dropout=_LABEL_DROPOUT
        )

    def seconds(self) -> tuple[float, float]:
        """Return the seconds of our step and of the published one."""
        theirs = PublishedTrainer(copy.deepcopy(self.network))
        batch = next(self.batches(0))
        rounds = Rounds(lambda: theirs.step(batch["latents"], batch["labels"], self.dtype), self.arguments, self.device)
        AcceleratorState._reset_state(True)  # The other precision's.
        with tempfile.TemporaryDirectory() as directory, suppress(Stopped):
            fit(
                self._objective(), self.batches, self.loop, Path(directory), seed=0, description="ours", hooks=(rounds,)
            )
        return min(rounds.ours[1:]), min(rounds.theirs[1:])

    def parts(self) -> dict[str, float]:
        """Return the share of each part of our step; parts are waited for, so a GPU takes longer than in the loop."""
        objective = self._objective().to(self.device).train()
        optimisers = Optimisers(objective, self.loop, {})
        average = MovingAverage(optimisers.parameters[MAIN], self.loop.ema_decay)
        stream = self.batches(0)
        best: dict[str, float] = {}
        for number in range(self.arguments.rounds + 1):
            for name, seconds in _timed_parts(objective, optimisers, average, stream, self.device, self.dtype):
                if number:
                    best[name] = min(seconds, best.get(name, seconds))
        return {name: seconds / sum(best.values()) for name, seconds in best.items()}

    def _objective(self) -> nn.Module:
        if self.arguments.compile:
            self.network.compile()
        return FlowMatching().build(self.network)


def _timed_parts(
    objective: nn.Module,
    optimisers: Optimisers,
    average: MovingAverage,
    stream: Iterator[Batch],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[str, float]]:
    """Take one step; yield the name and the seconds of each part of it."""
    clock = [processor_seconds(device)]

    def lap() -> float:
        clock.append(processor_seconds(device))
        return clock[-1] - clock[-2]

    batch = next(stream)
    yield "batch", lap()
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = objective(**batch)["loss"]
    yield "forward", lap()
    loss.backward()
    yield "backward", lap()
    taken, _ = optimisers.step()
    yield "optimiser", lap()
    average.update(taken)
    yield "average", lap()


def encode_seconds(arguments: Arguments, device: torch.device) -> float:
    """Return the seconds to encode one image by an autoencoder of SD-VAE's shape, in float32 as published."""
    autoencoder = AutoencoderConfig().build()
    cast(nn.Module, autoencoder).to(device).eval()
    pixels = torch.rand(arguments.encoded, 3, _PIXELS, _PIXELS, device=device) * 2 - 1
    best = float("inf")
    for _ in range(2):
        started = processor_seconds(device)
        with torch.no_grad():
            posterior(autoencoder, pixels)
        best = min(best, processor_seconds(device) - started)
    return best / arguments.encoded


def forward_flops(network: Transformer) -> int:
    """Return the operations of one image's forward pass."""
    config, numbers = network.config, network.config.patch_size**2 * network.latent_channels
    return transformer_flops(
        depth=config.depth,
        width=config.width,
        hidden=int(config.width * config.mlp_ratio),
        tokens=(network.grid // config.patch_size) ** 2,
        patch_inputs=numbers,
        patch_outputs=numbers,
    )


def peaks(device: torch.device, dtypes: list[torch.dtype]) -> dict[str, float]:
    """Return the operations per second at which utilisation is 1: the data sheet's, else the fastest product's."""
    known = {torch.bfloat16: known_peak(_gpu_name(device))}
    side = 8192 if device.type == "cuda" else 1024
    return {_name(dtype): known.get(dtype) or measured_peak(device, dtype, side) for dtype in dtypes}


def _gpu_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _report(
    arguments: Arguments,
    device: torch.device,
    seconds: dict[str, tuple[float, float]],
    encoding: float | None,
    peak: dict[str, float],
    flops: int,
) -> dict[str, object]:
    batch, fastest = arguments.batch, next(iter(seconds))
    ours = seconds[fastest][0]
    rates = {f"ours, {name}": batch / pair[0] for name, pair in seconds.items()}
    rates |= {f"published way, cached latents, {name}": batch / pair[1] for name, pair in seconds.items()}
    ratios = {f"equal arithmetic, {name}": theirs / own for name, (own, theirs) in seconds.items()}
    ratios["published precision, cached latents"] = seconds["float32"][1] / ours
    if encoding is not None:
        published = seconds["float32"][1] + batch * encoding
        rates["as published: float32, encoding in the loop"] = batch / published
        ratios["as published"] = published / ours
    utilisation = {
        f"{way}, {name}": TRAINING_FACTOR * flops * batch / value / peak[name]
        for name, pair in seconds.items()
        for way, value in zip(("ours", "published way"), pair, strict=True)
    }
    return {
        "what": f"training step of SiT-{arguments.size}/2, 256 tokens, batch {batch}, compiled: {arguments.compile}",
        "images_per_second": rates,
        "ratio": ratios,
        "model_flops_utilisation": utilisation,
        "peak_flops": peak,
        "peak_from": "data sheet for bfloat16, else measured" if known_peak(_gpu_name(device)) else "measured",
        "training_flops_per_image": TRAINING_FACTOR * flops,
        "encode_seconds_per_image": encoding,
        "device": _gpu_name(device) or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def main() -> None:
    """Compare in our precision and in float32; on a CPU by one thread."""
    arguments = tyro.cli(Arguments, description=__doc__)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    # As the published script does; ours in float32 has it, too.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    encoding = encode_seconds(arguments, device) if arguments.encoded else None
    dtypes = list(dict.fromkeys([autocast_dtype("auto"), torch.float32]))
    seconds: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        latents = synthetic_latents(Path(directory))
        for dtype in dtypes:
            seconds[_name(dtype)] = Comparison(arguments, device, dtype, latents).seconds()
        last = Comparison(arguments, device, dtypes[0], latents)
        parts, flops = last.parts(), forward_flops(last.network)
    result = _report(arguments, device, seconds, encoding, peaks(device, dtypes), flops)
    print(json.dumps(result | {"share_of_ours": parts}, indent=2))


if __name__ == "__main__":
    main()
