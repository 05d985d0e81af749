"""LPIPS, the learned perceptual image patch similarity (Zhang et al., 1801.03924), version 0.1 on VGG16.

Equation 1 of the paper: features of an ImageNet classifier are scaled to unit length over channels, their squared
difference is weighted per channel by heads fitted to human judgements, averaged over positions and summed over layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.models.fingerprint import weights_fingerprint
from reals.models.weights import read_weights, select_tensors
from reals.runtime.errors import UserError

VGG16_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
# As other projects record it; torchvision names the file by the first eight digits.
VGG16_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
# Of the file in the `lpips` package 0.1.4 and, the same, in torchmetrics.
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"

# Channels of VGG16's convolutions up to relu5_3 (Simonyan and Zisserman, 1409.1556, configuration D): each block but
# the first follows a max pooling, each ends at a layer that LPIPS compares.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SMALLEST_SIDE = 16
# LPIPS's own rounding of ImageNet's mean and deviation, for pixels in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class Lpips:
    """LPIPS v0.1 on VGG16; its trunk is a download of 553 MB, its heads come with torchmetrics."""

    trunk: str = VGG16_URL
    """VGG16's ImageNet weights under torchvision's names: a path, an https address, or owner/name:file of the hub."""
    trunk_sha256: str | None = VGG16_SHA256
    """What the SHA-256 of the trunk's file must be; None accepts any VGG16, whose distances are no published LPIPS."""
    heads: str | None = None
    """The linear heads' file: a path, an https address or owner/name:file; None takes the one inside torchmetrics."""
    heads_sha256: str | None = HEADS_SHA256
    """What the SHA-256 of the heads' file must be; None accepts any."""

    def build(self, device: torch.device | str) -> "LpipsDistance":
        """Load the network onto ``device``.

        Raises:
            UserError: a file is absent, unreachable, another one than expected, or lacks tensors.
        """
        heads = _shipped_heads() if self.heads is None else self.heads
        head_state = read_weights(heads, self.heads_sha256)
        network = LpipsNetwork(read_weights(self.trunk, self.trunk_sha256), head_state, self.trunk, heads)
        fingerprint = weights_fingerprint(network)
        # The layout in which the tensor cores' convolutions need no transposition.
        layout = torch.channels_last if torch.device(device).type == "cuda" else torch.preserve_format
        nn.Module.to(network, device=device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        return LpipsDistance(network, fingerprint)


class LpipsDistance:
    """LPIPS as a loss (a call: mean, differentiable) and as a measure (:meth:`distances`: image by image).

    It is no ``nn.Module``: an objective that holds it neither trains nor saves it.
    """

    name = "lpips-vgg16"

    def __init__(self, network: "LpipsNetwork", fingerprint: str):
        self.fingerprint = fingerprint
        self._network = network

    def __call__(self, reconstruction: Float[Tensor, "b 3 h w"], pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean distance of a batch in [-1, 1], float32; its gradient reaches ``reconstruction`` only."""
        with torch.no_grad():
            targets = self._network(pixels)
        return self._network.compare(self._network(reconstruction), targets).mean()

    @torch.no_grad()
    def distances(self, images: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Return the distance of each pair of images in [-1, 1], float32; symmetric, 0 for equal images."""
        return self._network.compare(self._network(images), self._network(others))


class LpipsNetwork(nn.Module):
    """VGG16 up to relu5_3 and LPIPS's linear heads, frozen."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor], trunk_name: str, heads_name: str):
        """Take the tensors of a torchvision VGG16 and of LPIPS's heads; the names of their files are for messages.

        Raises:
            UserError: a tensor is absent or has another shape.
        """
        super().__init__()
        with torch.device("meta"):
            self.features, self.taps = _vgg16()
        names = {f"features.{name}": tensor for name, tensor in self.features.state_dict().items()}
        weights = select_tensors(trunk, names, trunk_name, "torchvision VGG16")
        self.load_state_dict(weights, assign=True)
        # Index 1 in the files' names: index 0 was a dropout, which has no part in a trained distance.
        like = {
            f"lin{number}.model.1.weight": torch.empty(1, block[-1], 1, 1, device="meta")
            for number, block in enumerate(_BLOCKS)
        }
        self.heads = nn.ParameterList(select_tensors(heads, like, heads_name, "VGG16 LPIPS v0.1").values())
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 at strides 1 to 16, in the autocast precision.

        Raises:
            ValueError: the images are smaller than the last layer's stride.
        """
        if min(pixels.shape[2:]) < _SMALLEST_SIDE:
            raise ValueError(
                f"LPIPS needs images of at least {_SMALLEST_SIDE} pixels, not {pixels.shape[3]}x{pixels.shape[2]}"
            )
        hidden = (_at_least_float32(pixels) - self.shift) / self.scale
        if hidden.is_cuda:
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        layers = []
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in self.taps:
                layers.append(hidden)
        return layers

    def compare(self, layers: list[Tensor], others: list[Tensor]) -> Float[Tensor, " b"]:
        """Return the distance between what :meth:`forward` gave for two batches, at least float32."""
        # Written as a sum, not as the 1x1 convolution it is: autocast would take that to half precision.
        parts = [
            ((_unit(one) - _unit(other)).square() * head).sum(dim=1).mean(dim=(1, 2))
            for one, other, head in zip(layers, others, self.heads, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)


def _vgg16() -> tuple[nn.Sequential, tuple[int, ...]]:
    """Return VGG16's layers at torchvision's indices, and the indices of the layers compared."""
    layers: list[nn.Module] = []
    taps, channels = [], 3
    for block in _BLOCKS:
        if layers:
            layers.append(nn.MaxPool2d(2))
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), tuple(taps)


def _shipped_heads() -> str:
    # Found, not imported: torchmetrics takes seconds.
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise UserError("LPIPS's heads come with torchmetrics, which is not installed; install it, or give their file")
    return str(Path(spec.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    # In half precision the difference of nearly equal features would be mostly rounding.
    features = _at_least_float32(features)
    # vector_norm and not the root of a sum: where every feature is 0 its gradient is finite, the root's is not.
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPSILON)
