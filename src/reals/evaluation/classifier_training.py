"""Training of the photo classifier: minutes on a CPU, the same weights for the same seed, resumed after a stop."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from reals.evaluation.classifier import (
    RECORD_FILE,
    ROTATIONS,
    ClassifierConfig,
    ClassifierNetwork,
    ClassifierRecord,
    PhotoClassifier,
    load_classifier,
    shrink,
)
from reals.runtime import interrupt
from reals.runtime.config import to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import load_state, save_state
from reals.runtime.progress import Progress, progress
from reals.runtime.seed import derive_seed, seed_everything, torch_generator

STATE_FILE = "classifier.state.pt"
# Larger shifts need more epochs than this network is given.
_LARGEST_SHIFT = 2


@dataclass(frozen=True, eq=False)
class ClassifierData:
    """Photos to learn from and to test on, already small (:func:`~reals.evaluation.classifier.shrink_to_uint8`)."""

    train_images: UInt8[np.ndarray, "n h w 3"]
    train_labels: Int[np.ndarray, " n"] | None
    """None for unlabelled photos: the network then learns rotations."""
    held_out_images: UInt8[np.ndarray, "m h w 3"]
    held_out_labels: Int[np.ndarray, " m"] | None
    num_classes: int
    """Ignored for unlabelled photos."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of all photos and labels."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.held_out_images, self.held_out_labels):
            digest.update(b"none" if array is None else f"{array.dtype}{array.shape}".encode())
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def train_classifier(
    data: ClassifierData,
    config: ClassifierConfig,
    directory: Path,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> PhotoClassifier:
    """Train a classifier into ``directory``, or read it if it is already there.

    A stopped run leaves its state after each epoch and continues from there, with the same result as an unstopped one.

    Raises:
        UserError: ``directory`` holds a classifier made with other settings, or there is nothing to tell apart.
        Interrupted: a signal asked the process to stop.
    """
    rotation = data.train_labels is None
    num_classes = ROTATIONS if rotation else data.num_classes
    if len(data.train_images) < 2 or num_classes < 2:
        raise UserError(
            f"{directory}: a classifier needs at least two photos and two classes, "
            f"found {len(data.train_images)} photos and {num_classes} classes"
        )
    wanted = ClassifierRecord(
        config=config,
        num_classes=num_classes,
        rotation=rotation,
        seed=seed,
        train_images=len(data.train_images),
        held_out_images=len(data.held_out_images),
        photos=data.fingerprint(),
        held_out_accuracy=None,
    )
    if (directory / RECORD_FILE).exists():
        return _reuse(directory, wanted, device)
    network = _fit(data, wanted, directory, torch.device(device))
    accuracy = _held_out_accuracy(network, data, rotation, torch.device(device))
    classifier = PhotoClassifier(network, replace(wanted, held_out_accuracy=accuracy), device)
    classifier.save(directory)
    (directory / STATE_FILE).unlink(missing_ok=True)
    return classifier


def _reuse(directory: Path, wanted: ClassifierRecord, device: torch.device | str) -> PhotoClassifier:
    found = load_classifier(directory, device)
    if replace(found.record, held_out_accuracy=None) != wanted:
        raise UserError(f"{directory}: holds a classifier made with other settings or photos; give another directory")
    return found


def _fit(data: ClassifierData, wanted: ClassifierRecord, directory: Path, device: torch.device) -> ClassifierNetwork:
    """Run the epochs that are not done yet and return the trained network."""
    config, seed = wanted.config, wanted.seed
    seed_everything("classifier", seed)
    network = config.build(wanted.num_classes).to(device).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.learning_rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )
    per_epoch = -(-len(data.train_images) // config.batch_size)
    first = _resume(directory / STATE_FILE, wanted, network, optimizer)
    title = "Train rotation network" if wanted.rotation else "Train classifier"
    with progress(title, config.epochs * per_epoch, "steps", first * per_epoch) as shown:
        for epoch in range(first, config.epochs):
            _train_epoch(network, optimizer, data, wanted, epoch, shown)
            state = {
                "plan": to_dict(wanted),
                "epoch": epoch + 1,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            save_state(directory / STATE_FILE, state)
    return network


def _resume(path: Path, wanted: ClassifierRecord, network: ClassifierNetwork, optimizer: torch.optim.Optimizer) -> int:
    """Restore the state of a stopped run of the same settings and return how many epochs it had finished."""
    if not path.exists():
        return 0
    state = load_state(path)
    if state["plan"] != to_dict(wanted):
        raise UserError(f"{path}: belongs to a classifier with other settings or photos; delete it to start anew")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epoch"])


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the highest rate at ``step``: linear over the first fifth, then a half cosine to 0."""
    warmup = max(steps // 5, 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + float(np.cos(np.pi * (step - warmup) / max(steps - warmup, 1))))


def _train_epoch(
    network: ClassifierNetwork,
    optimizer: torch.optim.Optimizer,
    data: ClassifierData,
    wanted: ClassifierRecord,
    epoch: int,
    shown: Progress,
) -> None:
    config, device = wanted.config, next(network.parameters()).device
    generator = np.random.default_rng(derive_seed("classifier", "order", wanted.seed, epoch))
    count = len(data.train_images)
    batches = np.array_split(generator.permutation(count), -(-count // config.batch_size))
    for number, rows in enumerate(batches):
        interrupt.stop_if_requested(f"in epoch {epoch + 1} of the classifier")
        step = epoch * len(batches) + number
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.epochs * len(batches))
        random = torch_generator("classifier", "augment", wanted.seed, epoch, number)
        pixels = augment(shrink(data.train_images[rows]), random)
        if data.train_labels is None:
            targets = torch.randint(ROTATIONS, (len(rows),), generator=random)
            pixels = rotate(pixels, targets)
        else:
            targets = torch.from_numpy(data.train_labels[rows].astype(np.int64))
        _, logits = network(pixels.to(device))
        loss = functional.cross_entropy(logits, targets.to(device), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shown.advance(1, f"loss {loss.item():.3f}")


def augment(pixels: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
    """Mirror every image with probability 1/2 and shift it by up to 2 pixels, the border reflected."""
    count, _, height, width = pixels.shape
    mirror = torch.rand(count, generator=generator) < 0.5
    pixels = torch.where(mirror[:, None, None, None], pixels.flip(3), pixels)
    shift = min(_LARGEST_SHIFT, min(height, width) // 4)
    padded = functional.pad(pixels, (shift, shift, shift, shift), mode="reflect")
    top = torch.randint(2 * shift + 1, (count,), generator=generator)
    left = torch.randint(2 * shift + 1, (count,), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    images = torch.arange(count)[:, None, None, None]
    channels = torch.arange(pixels.shape[1])[None, :, None, None]
    return padded[images, channels, rows, columns]


def rotate(pixels: Float[Tensor, "b c s s"], turns: Int[Tensor, " b"]) -> Float[Tensor, "b c s s"]:
    """Rotate each square image by its number of quarter turns, anticlockwise."""
    rotated = pixels.clone()
    for turn in range(1, ROTATIONS):
        chosen = turns == turn
        rotated[chosen] = torch.rot90(pixels[chosen], turn, dims=(2, 3))
    return rotated


@torch.inference_mode()
def _held_out_accuracy(
    network: ClassifierNetwork, data: ClassifierData, rotation: bool, device: torch.device, batch_size: int = 512
) -> float | None:
    """Return the share of held-out photos classified correctly; for rotations, over all four turns of each."""
    if len(data.held_out_images) == 0:
        return None
    network.eval()
    correct = total = 0
    for start in range(0, len(data.held_out_images), batch_size):
        pixels = shrink(data.held_out_images[start : start + batch_size])
        if rotation:
            targets = torch.arange(ROTATIONS).repeat_interleave(len(pixels))
            pixels = rotate(pixels.repeat(ROTATIONS, 1, 1, 1), targets)
        else:
            assert data.held_out_labels is not None
            targets = torch.from_numpy(data.held_out_labels[start : start + batch_size].astype(np.int64))
        _, logits = network(pixels.to(device))
        correct += int((logits.argmax(1).cpu() == targets).sum())
        total += len(targets)
    return correct / total
