"""Stage 1 in images per second, against a plain loop over the same networks, in one run.

``python benchmarks/stage_one.py`` (a CPU, minutes) or ``--size 256 --full`` (a GPU: the shapes of SD-VAE, DINOv2-large
and VGG16's LPIPS with random weights, and a PatchGAN). Prints JSON; ``ratio`` above 1 means that ours is faster.

The plain loop does what public trainers do: it computes the adaptive weight by two extra backward passes, runs the
discriminator's step as a second forward and backward pass, averages weights in a loop over tensors and reads losses off
the device in every step. It runs twice, in float32 as they do and in our precision. Both loops get their features from
the encoder in every step.
"""

import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from reals.latents.adversarial import AdversarialConfig, hinge_loss
from reals.latents.align import AlignConfig, AlignHeads, align_loss
from reals.latents.features import feature_statistics
from reals.latents.objective import AutoencoderObjective, ObjectiveConfig, kl_divergence
from reals.latents.perceptual import PerceptualLoss, ShallowFeatures
from reals.models.autoencoder import AutoencoderConfig, decode, downsampling, posterior
from reals.models.discriminator import PatchDiscriminatorConfig
from reals.models.lpips import HEADS_SHA256, LpipsDistance, LpipsNetwork
from reals.models.semantic import EfficientNetLite0, SemanticEncoder
from reals.models.semantic.dinov2 import DinoV2Encoder
from reals.runtime.memory import keep_freed_memory
from reals.training.config import LoopConfig, OptimiserConfig
from reals.training.loop import fit
from reals.training.precision import autocast_dtype
from reals.training.state import TrainState

_LEARNING_RATE = 1e-4
_BETAS = (0.5, 0.9)


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    size: int = 64
    """Side of the images."""
    batch: int = 8
    """Images per step."""
    steps: int = 6
    """Steps counted, after two that are not."""
    full: bool = False
    """Networks of the paper's sizes, with random weights."""


class Parts:
    """The networks that both loops train and use, made from the same seed."""

    def __init__(self, arguments: Arguments, device: torch.device, dtype: torch.dtype):
        torch.manual_seed(0)
        small = AutoencoderConfig(block_channels=(16, 32, 64), layers_per_block=1, norm_groups=8)
        self.autoencoder = (AutoencoderConfig() if arguments.full else small).build()
        self.encoder: SemanticEncoder = (
            _dinov2(device, dtype) if arguments.full else EfficientNetLite0().build(device, dtype)
        )
        self.perceptual: PerceptualLoss = _lpips(device) if arguments.full else ShallowFeatures().build(device)
        side = arguments.size // downsampling(self.autoencoder)
        self.grid = (side, side)
        self.pixels = torch.rand(arguments.batch, 3, arguments.size, arguments.size, device=device) * 2 - 1
        statistics = feature_statistics([self.encoder(self.pixels, self.grid)])
        self.heads: AlignHeads = AlignConfig().build(4, statistics).to(device)
        width = 64 if arguments.full else 32
        self.game = AdversarialConfig(
            weight=0.1, start=0, warm_up=0, discriminator=PatchDiscriminatorConfig(width=width)
        )
        nn.Module.to(self.autoencoder, device)


def _dinov2(device: torch.device, dtype: torch.dtype) -> DinoV2Encoder:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518)
    network = Dinov2WithRegistersModel(config)
    return DinoV2Encoder("dinov2-large-random", nn.Module.to(network, device, dtype), "random")


def _lpips(device: torch.device) -> LpipsDistance:
    blocks = ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), (512, 512))
    widths = [*blocks, (512, 512), (512, 512), (512, 512), (512, 512)]
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    trunk = {}
    for place, (inputs, outputs) in zip(places, widths, strict=True):
        trunk[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        trunk[f"features.{place}.bias"] = torch.zeros(outputs)
    heads = {
        f"lin{number}.model.1.weight": torch.rand(1, width, 1, 1)
        for number, width in enumerate((64, 128, 256, 512, 512))
    }
    network: nn.Module = LpipsNetwork(trunk, heads, "random", HEADS_SHA256)
    network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return LpipsDistance(network, "random")  # pyright: ignore[reportArgumentType]


def ours(parts: Parts, arguments: Arguments, device: torch.device) -> float:
    """Return the seconds per step of the package's own loop."""
    config = ObjectiveConfig(perceptual=1.0, adversarial=parts.game)
    objective = AutoencoderObjective(parts.autoencoder, config, parts.heads, parts.perceptual)
    loop = LoopConfig(
        steps=arguments.steps + 2,
        batch_size=arguments.batch,
        learning_rate=_LEARNING_RATE,
        log_every=50,
        checkpoint_every=10**6,
    )

    def batches(step: int) -> Iterator[dict[str, Any]]:
        while True:
            yield {"pixels": parts.pixels, "features": parts.encoder(parts.pixels, parts.grid), "step": step}
            step += 1

    times: list[float] = []

    def note(_state: TrainState) -> None:
        _wait(device)
        times.append(time.perf_counter())

    rule = OptimiserConfig(learning_rate=_LEARNING_RATE, betas=_BETAS)
    with tempfile.TemporaryDirectory() as directory:
        fit(
            objective,
            batches,
            loop,
            Path(directory),
            seed=0,
            description="ours",
            others={"discriminator": rule},
            hooks=(note,),
        )
    return (times[-1] - times[1]) / arguments.steps


def plain(parts: Parts, arguments: Arguments, device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds per step of a loop as public trainers write it."""
    network: nn.Module = parts.autoencoder
    discriminator = parts.game.discriminator.build().to(device)
    trained = [*network.parameters(), *parts.heads.parameters()]
    adam = torch.optim.AdamW(trained, _LEARNING_RATE, weight_decay=0.0, foreach=False)
    other = torch.optim.AdamW(discriminator.parameters(), _LEARNING_RATE, _BETAS, weight_decay=0.0, foreach=False)
    average = [parameter.detach().clone() for parameter in trained]
    last_layer = network.get_parameter("decoder.conv_out.weight")
    cast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

    def step() -> dict[str, float]:
        with torch.no_grad(), cast:
            features = parts.encoder(parts.pixels, parts.grid)
        with cast:
            mean, log_variance = posterior(parts.autoencoder, parts.pixels)
            latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            reconstruction = decode(parts.autoencoder, latent)
            mse = (reconstruction.float() - parts.pixels).square().mean()
            rebuilt = mse + parts.perceptual(reconstruction.float(), parts.pixels)
            fooled = -discriminator(reconstruction).float().mean()
            align = align_loss(parts.heads, latent, features)["align"]
        norms = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (rebuilt, fooled)]
        weight = (norms[0] / (norms[1] + 1e-4)).clamp(0.0, 1e4).detach()
        loss = rebuilt + 2e-5 * kl_divergence(mean, log_variance).mean() + align + 0.1 * weight * fooled
        adam.zero_grad()
        loss.backward()
        adam.step()
        with cast:
            real, fake = discriminator(parts.pixels).float(), discriminator(reconstruction.detach()).float()
        judged = hinge_loss(real, fake)
        other.zero_grad()
        judged.backward()
        other.step()
        with torch.no_grad():
            for old, new in zip(average, trained, strict=True):
                old.mul_(0.9999).add_(new.detach(), alpha=1e-4)
        return {"loss": loss.item(), "mse": mse.item(), "discriminator": judged.item()}

    return _seconds(step, arguments.steps, device)


def shares(parts: Parts, arguments: Arguments, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Return the seconds per step of single parts: encoder, discriminator, perceptual term, autoencoder."""
    discriminator = parts.game.discriminator.build().to(device)
    cast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)

    def judge() -> None:
        images = parts.pixels.clone().requires_grad_()
        with cast:
            loss = -discriminator(images).float().mean() + hinge_loss(
                discriminator(parts.pixels).float(), discriminator(parts.pixels).float()
            )
        loss.backward()

    def compare() -> None:
        images = (0.9 * parts.pixels).requires_grad_()
        with cast:
            loss = parts.perceptual(images, parts.pixels)
        loss.backward()

    def rebuild() -> None:
        with cast:
            mean, log_variance = posterior(parts.autoencoder, parts.pixels)
            loss = (decode(parts.autoencoder, mean).float() - parts.pixels).square().mean() + log_variance.mean()
        loss.backward()

    pieces: dict[str, Callable[[], object]] = {
        "encoder": lambda: parts.encoder(parts.pixels, parts.grid),
        "discriminator": judge,
        "perceptual": compare,
        "autoencoder": rebuild,
    }
    return {name: _seconds(piece, arguments.steps, device) for name, piece in pieces.items()}


def _seconds(step: Callable[[], object], steps: int, device: torch.device) -> float:
    for _ in range(2):
        step()
    _wait(device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak_bytes(device: torch.device) -> int:
    """Return the most memory held so far: on the GPU by tensors, on a CPU by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run ours first, so that its peak of memory is its own."""
    arguments = tyro.cli(Arguments, description=__doc__)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = autocast_dtype("auto")
    seconds = {"ours": ours(Parts(arguments, device, dtype), arguments, device)}
    peak = _peak_bytes(device)
    seconds["plain, our precision"] = plain(Parts(arguments, device, dtype), arguments, device, dtype)
    seconds["plain, float32"] = plain(Parts(arguments, device, torch.float32), arguments, device, torch.float32)
    single = shares(Parts(replace(arguments), device, dtype), arguments, device, dtype)
    whole = sum(single.values())
    result = {
        "what": f"stage 1, {arguments.size} pixels, batch {arguments.batch}, {'full' if arguments.full else 'small'}",
        "images_per_second": {name: arguments.batch / value for name, value in seconds.items()},
        "ratio": {name: value / seconds["ours"] for name, value in seconds.items() if name != "ours"},
        "share_of_single_parts": {name: value / whole for name, value in single.items()},
        "peak_gigabytes_of_ours": peak / 1e9,
        "precision": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
