"""Guided stochastic sampling of SiT, by the package's sampler and as the published script runs it, in one run.

``OMP_NUM_THREADS=1 python benchmarks/sampling.py`` (S/2 on a CPU, minutes) or, on a GPU,
``python benchmarks/sampling.py --size XL --images 64 --rounds 2 --compile``. Prints JSON; a ``ratio`` above 1 means
that ours is faster.

The published way is SiT's Euler-Maruyama sampler: it evaluates the network for the drift and again for the score, and
guides every latent in every step, in float32 (TF32 on a GPU). Ours evaluates once, guides inside the interval of noise
levels, and computes in the training's precision; these three are added one by one. The images of the first three rows
are the same but for rounding and the noise; the interval is a choice that changes them. Decoding is left out of all.
Rounds alternate and the fastest counts. On a CPU seconds are the processor's.
"""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from published_sit import PublishedNetwork, published_samples
from reals.apps.generate import sample_latents
from reals.diffusion.guidance import Guidance
from reals.diffusion.objective import FlowMatching
from reals.diffusion.process import evaluation_times
from reals.diffusion.solvers import EulerMaruyama
from reals.models.transformer import NamedTransformer, SizeName, Transformer
from reals.runtime.flops import processor_seconds
from reals.runtime.memory import keep_freed_memory
from reals.training.precision import autocast_dtype

_CLASSES = 1000
_EVERYWHERE = (0.0, 1.0)


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    size: SizeName = "S"
    """Size of the transformer; its patches are 2 x 2."""
    images: int = 1
    """Images made at once."""
    steps: int = 50
    """Steps of the sampler, the last one included."""
    scale: float = 1.8
    """Weight of guidance; 1 would be off."""
    interval: tuple[float, float] = (0.0, 0.75)
    """Noise levels between which ours guides."""
    rounds: int = 1
    """Rounds counted, after a short one that is not."""
    compile: bool = False
    """Compile our network with torch.compile."""


class Ways:
    """The same latents sampled in different ways."""

    def __init__(self, arguments: Arguments, device: torch.device):
        self._arguments, self._device = arguments, device
        torch.manual_seed(0)
        network = NamedTransformer(size=arguments.size).config().build(4, 32, _CLASSES)
        for parameter in network.parameters():
            # Only what starts at zero: a network that predicts nothing would do, but not for comparing results.
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
        self.network: Transformer = network.to(device)
        self._published = PublishedNetwork(network)
        self._labels = torch.arange(arguments.images, device=device) % _CLASSES
        if arguments.compile:
            # Guided and not, the batch has one of two sizes; each gets a graph of its own.
            self.network.compile(dynamic=False)

    def published(self, dtype: torch.dtype, steps: int) -> torch.Tensor:
        """Sample as SiT does."""
        noise = torch.randn(self._arguments.images, 4, 32, 32, device=self._device)
        scale = self._arguments.scale
        return published_samples(self._published, noise, self._labels, scale=scale, steps=steps, dtype=dtype)

    def ours(self, interval: tuple[float, float], dtype: torch.dtype, steps: int) -> torch.Tensor:
        """Sample as the package does."""
        return sample_latents(
            self.network,
            self._labels,
            range(self._arguments.images),
            seed=0,
            solver=EulerMaruyama(steps=steps),
            guidance=self.guidance(interval),
            dtype=dtype,
        )

    def guidance(self, interval: tuple[float, float]) -> Guidance:
        """Return the published guidance, of three channels, in an interval."""
        return Guidance(scale=self._arguments.scale, interval=interval, channels=3)

    def forwards(self, interval: tuple[float, float]) -> int:
        """Return our forward passes per image."""
        times = evaluation_times(FlowMatching(), EulerMaruyama(steps=self._arguments.steps))
        assert times is not None
        return self.guidance(interval).forwards(times)


def measure(ways: dict[str, Callable[[int], object]], arguments: Arguments, device: torch.device) -> dict[str, float]:
    """Return the seconds of each way, the best of alternating rounds."""
    best = dict.fromkeys(ways, float("inf"))
    for sample in ways.values():
        # Enough steps to meet both sizes of a batch.
        sample(3)
    for _ in range(arguments.rounds):
        for name, sample in ways.items():
            started = processor_seconds(device)
            sample(arguments.steps)
            best[name] = min(best[name], processor_seconds(device) - started)
    return best


def main() -> None:
    """Measure the published way, ours with one difference more each time, and the published way in our precision."""
    arguments = tyro.cli(Arguments, description=__doc__)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    # As the published script does by default; ours in float32 has it, too.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    ways, reduced, interval = Ways(arguments, device), autocast_dtype("auto"), arguments.interval
    name = str(reduced).removeprefix("torch.")
    seconds = measure(
        {
            "published": lambda steps: ways.published(torch.float32, steps),
            "one evaluation a step": lambda steps: ways.ours(_EVERYWHERE, torch.float32, steps),
            "and the interval": lambda steps: ways.ours(interval, torch.float32, steps),
            f"and {name}: ours": lambda steps: ways.ours(interval, reduced, steps),
            f"published in {name}": lambda steps: ways.published(reduced, steps),
        },
        arguments,
        device,
    )
    published, once, inside, ours, recast = seconds.values()
    result = {
        "what": f"SiT-{arguments.size}/2, {arguments.steps} steps of Euler-Maruyama, guided by {arguments.scale}, "
        f"interval {interval[0]:g} to {interval[1]:g}, {arguments.images} at once, compiled: {arguments.compile}",
        "seconds_per_image": {name: value / arguments.images for name, value in seconds.items()},
        "forwards_per_image": {
            "published": 4 * arguments.steps,
            "one evaluation a step": ways.forwards(_EVERYWHERE),
            "and the interval": ways.forwards(interval),
        },
        "ratio": {
            "ours to published": published / ours,
            "equal arithmetic, float32": published / inside,
            f"equal arithmetic, {name}": recast / ours,
        },
        "gain": {
            "one evaluation instead of two": published / once,
            "interval": once / inside,
            f"{name} instead of float32": inside / ours,
        },
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
