"""Foundation models as feature networks: DINOv2 for Fréchet and kernel distances, CLIP for CMMD."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from reals.evaluation.float32 import true_float32
from reals.models.fingerprint import weights_fingerprint
from reals.models.hub import check_location, quiet, unreachable
from reals.models.semantic import DinoV2, SemanticEncoder
from reals.models.semantic.base import resize_unit
from reals.runtime.errors import UserError
from reals.runtime.pixels import to_pixels

# DINOv2's patches are 14 pixels wide: 224 x 224.
_GRID = (16, 16)
_KIND = "CLIP model"
# OpenAI's channel means and standard deviations, which CLIP was trained with.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class DinoFeatures:
    """DINOv2's class token, of images shown at 224 x 224 (Stein et al., 2306.04675, find it to agree with people)."""

    resize = "224x224 bicubic, antialiased"

    def __init__(self, encoder: SemanticEncoder, name: str, device: torch.device | str = "cpu"):
        """Wrap an encoder that lies on ``device``."""
        self._encoder = encoder
        self._device = torch.device(device)
        self.name = name
        self.dimension = encoder.pooled_dim
        self.fingerprint = encoder.fingerprint

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Return the class token of each image."""
        with true_float32():
            return self._encoder(to_pixels(images).to(self._device), _GRID).pooled.cpu().numpy()


class ClipFeatures:
    """CLIP's image embeddings as CMMD's authors take them: of the middle square, at the size of the model's training.

    Their ``_center_crop_and_resize`` crops before it resizes, so that nothing is squeezed.
    """

    def __init__(self, network: nn.Module, name: str, device: torch.device | str = "cpu"):
        """Wrap a network in transformers' format that lies on ``device``."""
        config: Any = network.config
        self._network = network
        self._device = torch.device(device)
        self._side = int(config.image_size)
        self.name = name
        self.dimension = int(config.projection_dim)
        self.fingerprint = weights_fingerprint(network)
        self.resize = f"centre square, {self._side}x{self._side} bicubic, antialiased"

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Return the projected embedding of each image, of any length."""
        unit = resize_unit(to_pixels(_middle_square(images)).to(self._device), (self._side, self._side))
        normalised = (unit - unit.new_tensor(_MEAN).view(3, 1, 1)) / unit.new_tensor(_STD).view(3, 1, 1)
        with true_float32():
            return self._network(pixel_values=normalised).image_embeds.cpu().numpy()


def _middle_square(images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b s s 3"]:
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, top : top + side, left : left + side]


def network_name(model: str) -> str:
    """Return what metrics call a network: the last part of its directory or hub id."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else path.name


def dino_features(model: str, device: torch.device | str = "cpu") -> DinoFeatures:
    """Load DINOv2 from a directory or the hub.

    Raises:
        UserError: it cannot be reached, or is not DINOv2.
    """
    return DinoFeatures(DinoV2(model=model).build(device), network_name(model), device)


def clip_features(model: str, device: torch.device | str = "cpu") -> ClipFeatures:
    """Load CLIP's image tower from a directory or the hub; CMMD's is openai/clip-vit-large-patch14-336.

    Raises:
        UserError: it cannot be reached, is not CLIP, or lacks tensors.
    """
    from transformers import CLIPVisionModelWithProjection

    check_location(model, _KIND)
    try:
        with quiet("transformers"):
            loaded: Any = CLIPVisionModelWithProjection.from_pretrained(
                str(Path(model).expanduser()), use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            network, info = loaded
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable(model, f"{_KIND} with safetensors weights", error) from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{model}: its weights lack '{missing[0]}' ({len(missing)} such tensors); give a {_KIND}")
    frozen = network.eval().requires_grad_(False)
    return ClipFeatures(nn.Module.to(frozen, device=device), network_name(model), device)
