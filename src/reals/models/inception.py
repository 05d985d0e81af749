"""The Inception network behind FID, sFID and Inception Score, as the ADM evaluator runs it, without torchvision.

Its weights are those of the TensorFlow graph ``classify_image`` of 2015-12-05 (Szegedy et al., 1512.00567, with 1008
outputs), published for PyTorch under torchvision's parameter names. It differs from torchvision's Inception v3 where
the published scores depend on it: images are resized by TensorFlow 1's bilinear rule (no half-pixel centres, no
antialiasing) and mapped to ``(x - 128) / 128``; the average poolings inside blocks leave padding out of the mean; the
last block's pooling branch takes the maximum instead; there is no auxiliary classifier.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from reals.models.fingerprint import weights_fingerprint
from reals.models.inception_blocks import (
    BlockA,
    BlockB,
    BlockC,
    BlockD,
    BlockE,
    ConvNorm,
    average_pool,
    max_pool,
)
from reals.models.weights import read_weights, select_tensors

INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
# The file's name holds the first eight digits.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

SIDE = 299
"""Height and width that images are resized to."""
POOL_DIMENSION = 2048
"""Length of the features behind FID."""
SPATIAL_DIMENSION = 17 * 17 * 7
"""Length of the features behind sFID, 2023."""
CLASSES = 1008
"""Outputs of the classifier behind Inception Score."""

_SPATIAL_CHANNELS = 7


@dataclass(frozen=True, kw_only=True)
class Inception:
    """The FID Inception network; its weights are a download of 95 MB."""

    weights: str = INCEPTION_URL
    """The weights' file: a path, an https address, or owner/name:file of the hub."""
    sha256: str | None = INCEPTION_SHA256
    """What the file's SHA-256 must be; None accepts any weights of this network, whose distances are no FID."""

    def build(self, device: torch.device | str) -> "InceptionNetwork":
        """Load the network onto ``device``, frozen, in float32.

        Raises:
            UserError: the file is absent, unreachable, another one than expected, or lacks tensors.
        """
        network = InceptionNetwork(read_weights(self.weights, self.sha256), self.weights)
        return network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, eq=False)
class Activations:
    """What the metrics read from the network, float32."""

    pool: Float[Tensor, "b 2048"]
    """``pool_3:0``, the last feature map averaged over positions: FID, Inception Score, precision and recall."""
    spatial: Float[Tensor, "b 2023"]
    """The first seven channels of ``mixed_6/conv:0``, flattened as height, width, channel: sFID."""


class InceptionNetwork(nn.Module):
    """Inception v3 of 2015-12-05, from bytes to :class:`Activations`."""

    def __init__(self, weights: Mapping[str, Tensor], location: str):
        """Take the tensors published as ``pt_inception-2015-12-05``; ``location`` is for messages.

        Raises:
            UserError: a tensor is absent or has another shape.
        """
        super().__init__()
        with torch.device("meta"):
            self._make_layers()
        self.load_state_dict(select_tensors(weights, self.state_dict(), location, "FID Inception network"), assign=True)
        self.eval().requires_grad_(False)
        self.fingerprint = weights_fingerprint(self)

    def _make_layers(self) -> None:
        """Make the layers under the names of the published weights."""
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = BlockA(192, pool_width=32)
        self.Mixed_5c = BlockA(256, pool_width=64)
        self.Mixed_5d = BlockA(288, pool_width=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, width=128)
        self.Mixed_6c = BlockC(768, width=160)
        self.Mixed_6d = BlockC(768, width=160)
        self.Mixed_6e = BlockC(768, width=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280, average_pool)
        self.Mixed_7c = BlockE(2048, max_pool)
        self.fc = nn.Linear(POOL_DIMENSION, CLASSES)

    def forward(self, images: UInt8[Tensor, "b h w 3"]) -> Activations:
        """Return the activations of images of any size, given as bytes."""
        hidden = resize_tf1(images.permute(0, 3, 1, 2).float(), SIDE).sub(128.0).div(128.0)
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(hidden)))
        hidden = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(hidden, 3, stride=2)))
        hidden = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(hidden, 3, stride=2))))
        hidden = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(hidden)))
        # TensorFlow counts these blocks differently: its mixed_6 is this Mixed_6d, not the next.
        first_branch = self.Mixed_6d.branch1x1(hidden)
        hidden = self.Mixed_6e(self.Mixed_6d.join(first_branch, hidden))
        hidden = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(hidden)))
        spatial = first_branch[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return Activations(hidden.mean(dim=(2, 3)), spatial)

    def probabilities(self, pool: Float[Tensor, "b 2048"]) -> Float[Tensor, "b 1008"]:
        """Return the class probabilities behind Inception Score: the evaluator leaves the classifier's bias out."""
        return F.linear(pool, self.fc.weight).softmax(dim=1)


def resize_tf1(images: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c {side} {side}"]:
    """Resize as TensorFlow 1's ``resize_bilinear`` does by default: output pixel i reads at ``i * size / side``.

    Corners are not aligned, pixel centres are taken at their corners and nothing is smoothed before shrinking.
    """
    rows = _interpolate(images, 2, side)
    return _interpolate(rows, 3, side)


def _interpolate(images: Tensor, axis: int, side: int) -> Tensor:
    size = images.shape[axis]
    if size == side:
        return images
    # In float32 as in TensorFlow: the exact positions would move neighbours' weights by its rounding.
    position = torch.arange(side, device=images.device, dtype=torch.float32) * (
        torch.tensor(size, dtype=torch.float32, device=images.device) / side
    )
    low = position.floor().long().clamp(max=size - 1)
    high = (low + 1).clamp(max=size - 1)
    shape = [1, 1, 1, 1]
    shape[axis] = side
    weight = (position - low).reshape(shape)
    below, above = images.index_select(axis, low), images.index_select(axis, high)
    return below + (above - below) * weight
