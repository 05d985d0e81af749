"""A small classifier of photos: features that no alignment has seen, and class predictions.

Alignment pulls latents towards one network's features, so distances in those features may flatter it. This network is
trained from scratch on the same photos' training split; where photos have no labels it predicts by which quarter turn a
photo was rotated (Gidaris et al., 2018), which also needs to know what the photo shows.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError
from reals.runtime.io import load_tensors, read_json, save_tensors, write_json
from reals.runtime.pixels import to_pixels, to_uint8

LARGEST_SIDE = 32
"""Larger images are averaged down to this side: enough to recognise a subject, and cheap."""

ROTATIONS = 4

_BATCH_SIZE = 512
WEIGHTS_FILE = "classifier.safetensors"
RECORD_FILE = "classifier.json"


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Size and training of the photo classifier (SGD with Nesterov momentum, one linear warm-up and cosine decay)."""

    width: int = 32
    """Channels of the first stage; features are 4 times as wide."""
    epochs: int = 8
    """Passes over the training photos."""
    batch_size: int = 128
    """Photos per step."""
    learning_rate: float = 0.1
    """Highest learning rate of the schedule."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("width", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be below 0, not {self.weight_decay}")

    def build(self, num_classes: int) -> "ClassifierNetwork":
        """Build the untrained network from torch's global random state."""
        return ClassifierNetwork(self.width, num_classes)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016), averaged and widened by 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        widen = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(nn.AvgPool2d(stride), widen)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.main(x) + self.shortcut(x))


class ClassifierNetwork(nn.Module):
    """Stem at half resolution and three residual stages; features are the last stage's channels, averaged."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.dimension = 4 * width
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _Residual(width, width, 1),
            _Residual(width, 2 * width, 2),
            _Residual(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(self.dimension, num_classes)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]]:
        """Return features and class logits."""
        # Channels-last is what convolutions of these shapes are quickest in.
        features = self.trunk(pixels.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))
        return features, self.head(features)


def shrink(images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 hs ws"]:
    """Return pixels in [-1, 1], averaged down to at most 32x32."""
    pixels = to_pixels(images)
    size = (min(pixels.shape[2], LARGEST_SIDE), min(pixels.shape[3], LARGEST_SIDE))
    return pixels if size == pixels.shape[2:] else functional.interpolate(pixels, size=size, mode="area")


def shrink_to_uint8(images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b hs ws 3"]:
    """Return the same as :func:`shrink` as stored images, so that a training set of large photos fits into memory."""
    return images if max(images.shape[1:3]) <= LARGEST_SIDE else to_uint8(shrink(images))


@dataclass(frozen=True, kw_only=True)
class ClassifierRecord:
    """What is written beside the weights."""

    config: ClassifierConfig
    num_classes: int
    """Classes told apart; 4 for rotations."""
    rotation: bool
    """Whether it was trained on rotations because the photos have no labels."""
    seed: int
    train_images: int
    held_out_images: int
    photos: str
    """SHA-256 of all photos and labels."""
    held_out_accuracy: float | None
    """Share of held-out photos classified correctly; None without held-out photos."""


class PhotoClassifier:
    """The trained network as a :class:`~reals.evaluation.networks.FeatureNetwork` that also predicts classes."""

    resize = f"averaged down to at most {LARGEST_SIDE}x{LARGEST_SIDE}"

    def __init__(self, network: ClassifierNetwork, record: ClassifierRecord, device: torch.device | str = "cpu"):
        self.record = record
        self.name = "rotation" if record.rotation else "classifier"
        self.dimension = network.dimension
        self.fingerprint = _fingerprint(network)
        self._device = torch.device(device)
        self._network = network.to(self._device).eval()

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Return the features before the classification layer."""
        features, _ = self._network(shrink(images).to(self._device))
        return features.float().cpu().numpy()

    @torch.inference_mode()
    def classify(self, images: UInt8[np.ndarray, "n h w 3"]) -> Int[np.ndarray, " n"]:
        """Return the likeliest class of each image (of the quarter turns, for a rotation network)."""
        parts = [
            self._network(shrink(images[start : start + _BATCH_SIZE]).to(self._device))[1].argmax(1).cpu().numpy()
            for start in range(0, len(images), _BATCH_SIZE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def save(self, directory: Path) -> None:
        """Write weights and record into ``directory``; the record appears last and marks the pair as whole."""
        save_tensors(directory / WEIGHTS_FILE, self._network.state_dict())
        write_json(directory / RECORD_FILE, {**to_dict(self.record), "fingerprint": self.fingerprint})


def _fingerprint(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_classifier(directory: Path, device: torch.device | str = "cpu") -> PhotoClassifier:
    """Read what :meth:`PhotoClassifier.save` wrote.

    Raises:
        UserError: a file is missing, broken, or weights and record do not belong together.
    """
    values: dict[str, Any] = read_json(directory / RECORD_FILE)
    fingerprint = values.pop("fingerprint", None)
    record = from_dict(ClassifierRecord, values, str(directory / RECORD_FILE))
    network = record.config.build(record.num_classes)
    weights = load_tensors(directory / WEIGHTS_FILE)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise UserError(f"{directory / WEIGHTS_FILE}: not the weights that {RECORD_FILE} describes; train it again")
    network.load_state_dict(weights)
    classifier = PhotoClassifier(network, record, device)
    if classifier.fingerprint != fingerprint:
        raise UserError(f"{directory / WEIGHTS_FILE}: changed since {RECORD_FILE} was written; train it again")
    return classifier


def class_agreement(
    predictions: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"] | Int[Tensor, " n"]
) -> Bool[np.ndarray, " n"]:
    """Return whether each generated sample is assigned to the class it was generated for."""
    return predictions == np.asarray(labels)
