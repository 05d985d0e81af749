"""Generation: labels, noise and a transformer in; an ``.npz`` of images, its card and a picture out."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from reals.apps.grid import class_rows, image_grid, save_png
from reals.apps.samples import write_png_zip, write_samples
from reals.diffusion.guidance import Guidance, guide
from reals.diffusion.noise import PerImageNoise
from reals.diffusion.objective import FlowMatching
from reals.diffusion.process import Process, Sampler, check_sampler, evaluation_times, noise_level, sample, steps_of
from reals.diffusion.solvers import StepCallback
from reals.diffusion.solvers.grid import ignore_step
from reals.models.transformer import Transformer
from reals.runtime import dist, interrupt
from reals.runtime.config import to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import read_json, write_json
from reals.runtime.progress import progress, say
from reals.runtime.seed import derive_seed
from reals.runtime.shards import ShardedArrays, write_shards

Decode = Callable[[Tensor], np.ndarray]
"""Normalised latents [b, c, h, w] to images, uint8 [b, height, width, 3]."""

_FLOW_MATCHING = FlowMatching()
_GRID_COLUMNS = 8
_GRID_ROWS = 10
_GRID_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class RandomLabels:
    """Each image's class drawn uniformly, as SiT, DiT and most published FIDs do."""

    def label(self, index: int, num_classes: int, seed: int) -> int:
        """Return the class of image ``index``."""
        return derive_seed(seed, "label", index) % num_classes


@dataclass(frozen=True, kw_only=True)
class BalancedLabels:
    """Classes in turn, so that all are equally frequent; lowers FID a little against random labels."""

    def label(self, index: int, num_classes: int, seed: int) -> int:
        """Return the class of image ``index``."""
        return index % num_classes


LabelProtocol = RandomLabels | BalancedLabels
"""Which class each image is of."""


@torch.inference_mode()
def sample_latents(
    transformer: Transformer,
    labels: Int[Tensor, " b"],
    indices: Sequence[int],
    *,
    seed: int,
    solver: Sampler,
    guidance: Guidance,
    process: Process = _FLOW_MATCHING,
    weaker: Transformer | None = None,
    dtype: torch.dtype = torch.float32,
    on_step: StepCallback = ignore_step,
) -> Float[Tensor, "b c h w"]:
    """Return normalised latents of images ``indices``, each a function of ``(seed, index, label)`` and the weights.

    Args:
        transformer: used in evaluation mode, on its own device.
        labels: one class per image.
        indices: which streams of noise to use.
        seed: with the index, decides an image's noise.
        solver: how noise is carried to data.
        guidance: how strong, where, on which channels.
        process: what the network was trained by.
        weaker: guides by the difference from this network (autoguidance), not from the prediction without a label.
        dtype: ``torch.float32``, or what the network is autocast to.
        on_step: told the number of finished steps and the state.

    Raises:
        UserError: the solver does not fit the process.
    """
    device = transformer.pos_embed.device
    noise = PerImageNoise(seed, indices)
    start = noise((transformer.latent_channels, transformer.grid, transformer.grid), device)
    output = guide(
        transformer,
        labels.to(device),
        transformer.null_label,
        guidance,
        weaker=weaker,
        noise_level=noise_level(process),
    )
    networks = [network for network in (transformer, weaker) if network is not None]
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            return sample(process, solver, output, start, noise, on_step)
    finally:
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)


def generate(
    transformer: Transformer,
    decode: Decode,
    *,
    count: int,
    output: Path,
    solver: Sampler,
    guidance: Guidance,
    labels: LabelProtocol,
    process: Process = _FLOW_MATCHING,
    weaker: Transformer | None = None,
    seed: int = 0,
    batch_size: int = 250,
    png_zip: bool = False,
    dtype: torch.dtype = torch.float32,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Generate ``count`` images into ``output`` (``.npz``: ``arr_0`` uint8 NHWC, ``arr_1`` int64 labels).

    A card ``.json`` and a picture ``.png`` lie beside it. Batches are kept in a directory ``.partial`` until all are
    there, so an interrupted call goes on where it was; a finished one is not repeated. Under ``torchrun`` the
    processes share the batches. Image i depends on (seed, i) and the settings, not on the batch size.

    Args:
        transformer: on the device to use.
        decode: normalised latents to images.
        count: number of images.
        output: the ``.npz`` to write.
        solver: how noise is carried to data.
        guidance: how strong, where, on which channels.
        labels: which class each image is of.
        process: what the network was trained by.
        weaker: guides by the difference from this network (autoguidance); ``provenance`` should tell which it is.
        seed: decides noise and random labels.
        batch_size: images at once.
        png_zip: write the images as PNG into a ``.zip`` beside the output, too.
        dtype: ``torch.float32``, or what the network is autocast to.
        provenance: what else identifies the images, weights above all, as JSON values; recorded in the card, and
            images made with another are not continued.

    Raises:
        UserError: ``output`` holds other images or has another suffix, a number makes no sense, or memory is short.
        Interrupted: a signal asked the process to stop; finished batches stay.
    """
    _check(count, batch_size, output)
    check_sampler(process, solver)
    batches = _Batches(transformer, decode, solver, guidance, process, weaker, labels, seed, batch_size, dtype)
    card = {"count": count, **batches.card(), "provenance": dict(provenance or {})}
    partial = output.with_suffix(".partial")
    if _finished(output, partial, card):
        say(f"{output}: already there")
        return output
    _write_batches(partial, count, batches, card)
    if dist.is_main():
        arrays = ShardedArrays(partial)
        _save_picture(output.with_suffix(".png"), arrays)
        write_samples(output, arrays, ("image", "label"))
        if png_zip:
            write_png_zip(output.with_suffix(".zip"), arrays)
        # The card comes last of the results: its presence says that they are whole.
        write_json(output.with_suffix(".json"), card)
        shutil.rmtree(partial)
    dist.barrier()
    return output


@dataclass(frozen=True)
class _Batches:
    """Makes any range of the images."""

    transformer: Transformer
    decode: Decode
    solver: Sampler
    guidance: Guidance
    process: Process
    weaker: Transformer | None
    labels: LabelProtocol
    seed: int
    batch_size: int
    dtype: torch.dtype

    def produce(self, start: int, stop: int, on_step: StepCallback) -> dict[str, np.ndarray]:
        """Return images and labels ``start`` to ``stop``, made ``batch_size`` at once."""
        classes = self.transformer.num_classes
        labels = np.array([self.labels.label(i, classes, self.seed) for i in range(start, stop)], dtype=np.int64)
        images = []
        for first in range(start, stop, self.batch_size):
            indices = range(first, min(first + self.batch_size, stop))
            try:
                images.append(self._images(labels[first - start :][: len(indices)], indices, on_step))
            except torch.OutOfMemoryError:
                advice = f"lower the batch size, {self.batch_size}; finished images are kept"
                raise UserError(f"out of memory with {len(indices)} images at once; {advice}") from None
        return {"image": np.concatenate(images), "label": labels}

    @torch.inference_mode()
    def _images(
        self, labels: Int[np.ndarray, " b"], indices: Sequence[int], on_step: StepCallback
    ) -> UInt8[np.ndarray, "b height width 3"]:
        latents = sample_latents(
            self.transformer,
            torch.from_numpy(labels),
            indices,
            seed=self.seed,
            solver=self.solver,
            guidance=self.guidance,
            process=self.process,
            weaker=self.weaker,
            dtype=self.dtype,
            on_step=on_step,
        )
        with torch.autocast(latents.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.decode(latents)

    def card(self) -> dict[str, Any]:
        """Return what decides the images, and what each costs; the batch size does neither."""
        card = {
            "seed": self.seed,
            "labels": to_dict(self.labels),
            "num_classes": self.transformer.num_classes,
            "process": to_dict(self.process),
            "solver": to_dict(self.solver),
            "guidance": to_dict(self.guidance),
            "dtype": str(self.dtype).removeprefix("torch."),
            "transformer": to_dict(self.transformer.config),
        }
        times = evaluation_times(self.process, self.solver)
        if times is not None:
            level = noise_level(self.process)
            card["evaluations_per_image"] = len(times)
            if self.weaker is None:
                card["network_forwards_per_image"] = self.guidance.forwards(times, level)
            else:
                card["weaker_network_forwards_per_image"] = self.guidance.guided(times, level)
        return card


def _write_batches(partial: Path, count: int, batches: _Batches, card: Mapping[str, Any]) -> None:
    """Fill ``partial`` with what is missing of the images, this process's share of them."""
    plan = partial / "plan.json"
    # After running out of memory one goes on with smaller batches, so shards keep the size they were begun with.
    rows_per_shard = read_json(plan)["rows_per_shard"] if plan.exists() else batches.batch_size
    starts = range(0, count, rows_per_shard)[dist.rank() :: dist.world_size()]
    total = sum(min(rows_per_shard, count - start) for start in starts)
    steps = steps_of(batches.solver)
    with progress("sampling", total, "images") as bar:

        def produce(start: int, stop: int) -> dict[str, np.ndarray]:
            def on_step(step: int, x: Tensor) -> None:
                interrupt.stop_if_requested(f"while sampling images {start} to {stop} of {count}")
                bar.advance(0, f"step {step}" if steps is None else f"step {step}/{steps}")

            return batches.produce(start, stop, on_step)

        write_shards(
            partial,
            count,
            produce,
            names=("image", "label"),
            rows_per_shard=rows_per_shard,
            metadata=card,
            on_rows=lambda rows: bar.advance(rows, ""),
        )


def _check(count: int, batch_size: int, output: Path) -> None:
    if count < 1:
        raise UserError(f"{output}: asked for {count} images; ask for at least 1")
    if batch_size < 1:
        raise UserError(f"{output}: the batch size is {batch_size}; it must be at least 1")
    if output.suffix != ".npz":
        raise UserError(f"{output}: samples are written as .npz; give an output that ends in .npz")


def _finished(output: Path, partial: Path, card: Mapping[str, Any]) -> bool:
    """Return whether ``output`` already holds these images; refuse to overwrite others."""
    if not output.exists():
        return False
    card_path = output.with_suffix(".json")
    if not card_path.exists() and partial.exists():
        return False  # Killed between the last batch and the card.
    if card_path.exists() and read_json(card_path) == card:
        if dist.is_main():
            shutil.rmtree(partial, ignore_errors=True)  # Killed right after the card.
        return True
    raise UserError(f"{output}: exists and was made with other settings; delete it or give another output")


def _save_picture(path: Path, arrays: ShardedArrays) -> None:
    """Save the first images: a row for each of the first classes, or all rows of the only one."""
    places = class_rows(arrays.all("label"), min(_GRID_COLUMNS, len(arrays)), _GRID_ROWS)
    images = arrays.gather("image", places.clip(min=0).reshape(-1))
    images[places.reshape(-1) < 0] = 255
    save_png(path, image_grid(images, places.shape[1], max(1, _GRID_PIXELS // images.shape[1])))
