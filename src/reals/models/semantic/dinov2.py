"""DINOv2, without or with register tokens (Oquab et al., 2304.07193; Darcet et al., 2309.16588)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reals.models.fingerprint import weights_fingerprint
from reals.models.hub import check_location, quiet, unreachable
from reals.models.semantic.base import Features, ordinary, resize_unit
from reals.runtime.errors import UserError

_KIND = "DINOv2 model"
# ImageNet's channel means and standard deviations, which DINOv2 was trained with.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DinoV2:
    """A DINOv2 encoder read through transformers; the paper's choice is large with registers."""

    model: str = "facebook/dinov2-with-registers-large"
    """Hub id, or a directory in transformers' format."""

    def build(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "DinoV2Encoder":
        """Load the encoder onto ``device``, its weights in ``dtype``.

        Raises:
            UserError: the model cannot be reached, or is not DINOv2.
        """
        network = _load(self.model)
        fingerprint = weights_fingerprint(network)
        nn.Module.to(network, device=device, dtype=dtype, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return DinoV2Encoder(self.model, network, fingerprint)


class DinoV2Encoder:
    """Patch features and the class token of DINOv2 after its final layer normalisation."""

    def __init__(self, name: str, network: nn.Module, fingerprint: str):
        """Freeze a network whose weights in float32 have this fingerprint."""
        config: Any = network.config
        self.name = name
        self.patch_dim = self.pooled_dim = int(config.hidden_size)
        self.patch_size = int(config.patch_size)
        self.fingerprint = fingerprint
        # The tokens are: class, registers, patches.
        self._skipped = 1 + int(getattr(config, "num_register_tokens", 0))
        self._network = network.eval().requires_grad_(False)
        self._dtype = next(network.parameters()).dtype

    def __call__(self, pixels: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Features:
        """Return the features of pixels in [-1, 1]; a 32x32 grid means 448x448 pixels into patches of 14."""
        rows, columns = grid
        with torch.inference_mode():
            images = resize_unit(pixels, (rows * self.patch_size, columns * self.patch_size))
            normalised = (images - images.new_tensor(_MEAN).view(3, 1, 1)) / images.new_tensor(_STD).view(3, 1, 1)
            normalised = normalised.contiguous(memory_format=torch.channels_last)
            tokens = self._network(pixel_values=normalised.to(self._dtype)).last_hidden_state
        return ordinary(tokens[:, self._skipped :].unflatten(1, (rows, columns)), tokens[:, 0])


def _load(location: str) -> nn.Module:
    from transformers import Dinov2Model, Dinov2WithRegistersModel, PretrainedConfig

    classes = {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}
    check_location(location, _KIND)
    source = str(Path(location).expanduser())
    try:
        with quiet("transformers"):
            config, _ = PretrainedConfig.get_config_dict(source)
    except OSError as error:
        raise unreachable(location, _KIND, error) from None
    found = config.get("model_type")
    if found not in classes:
        raise UserError(f"{location}: is a '{found}' model; give a DINOv2 model (one of: {', '.join(classes)})")
    try:
        with quiet("transformers"):
            network, info = classes[found].from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise unreachable(location, f"{_KIND} with safetensors weights", error) from None
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(f"{location}: its weights lack '{missing[0]}' ({len(missing)} such tensors); copy it again")
    return network
