"""The PatchGAN discriminator of pix2pix and latent diffusion: one logit per patch of the image.

Isola et al., 1611.07004, section 3.2.2. Its parameters have the names of the discriminator in taming-transformers and
latent-diffusion, so that pretrained ones load as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from reals.models.weights import read_weights, select_tensors
from reals.runtime.errors import UserError

_KERNEL = 4
_SLOPE = 0.2
"""Of the leaky ReLU, for negative values."""
_DEVIATION = 0.02
"""Of the initial weights."""
_GROUPS = 8
"""Of a group normalisation."""
_WIDEST = 8
"""Widths double up to this many times the first."""
# Alone, inside a Lightning module, and inside the loss of one.
_PREFIXES = ("", "discriminator.", "loss.discriminator.")


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Shape of a PatchGAN; the defaults judge patches of 70 pixels (2.77 M parameters)."""

    width: int = 64
    """Channels of the first layer; they double with each further layer, up to eightfold."""
    layers: int = 3
    """Convolutions that halve the resolution; two more follow at the last resolution."""
    norm: Literal["batch", "group"] = "batch"
    """Batch normalisation, as published, sees one micro-batch; group normalisation sees one image."""
    weights: str | None = None
    """Pretrained weights: a path, an https address, or owner/name:file of the hub; None starts at random."""

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def smallest_side(self) -> int:
        """Pixels along an image's shorter side below which no logit is left."""
        return 3 * 2**self.layers

    def build(self) -> "PatchDiscriminator":
        """Return the network on the CPU, in training mode.

        Raises:
            UserError: the weights' file is absent, unreachable, or of another network.
        """
        network = PatchDiscriminator(self)
        if self.weights is not None:
            state = read_weights(self.weights)
            network.load_state_dict(_own_tensors(state, network.state_dict(), self.weights))
        return network


class PatchDiscriminator(nn.Module):
    """Convolutions of 4 pixels, batch normalisations and leaky ReLUs; positive logits mean "a real image"."""

    def __init__(self, config: PatchDiscriminatorConfig):
        """Build with weights N(0, 0.02²), normalisations' gains N(1, 0.02²) and zero biases, as pix2pix does."""
        super().__init__()
        widths = [config.width * min(2**number, _WIDEST) for number in range(config.layers + 1)]
        # The first layer is not normalised: it sees the image's own contrast.
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], _KERNEL, stride=2, padding=1), _activation()]
        for number in range(1, config.layers + 1):
            stride = 2 if number < config.layers else 1
            # The normalisation's shift takes the place of a bias.
            layers += [
                nn.Conv2d(widths[number - 1], widths[number], _KERNEL, stride=stride, padding=1, bias=False),
                _normalisation(config, widths[number]),
                _activation(),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, _KERNEL, padding=1))
        self.main = nn.Sequential(*layers)
        self.main.apply(_initialise)

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 rows columns"]:
        """Return one logit per patch of images in [-1, 1], in the autocast precision: 30x30 for 256x256 pixels."""
        return self.main(pixels)


def _normalisation(config: PatchDiscriminatorConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(min(_GROUPS, channels), channels)


def _activation() -> nn.Module:
    return nn.LeakyReLU(_SLOPE, inplace=True)


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, 0.0, _DEVIATION)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(layer.weight, 1.0, _DEVIATION)
        nn.init.zeros_(layer.bias)


def _own_tensors(state: Mapping[str, Any], like: Mapping[str, Tensor], location: str) -> dict[str, Tensor]:
    """Return the discriminator's tensors from a file of its own or from a Lightning checkpoint that contains it."""
    nested = state.get("state_dict")
    state = nested if isinstance(nested, Mapping) else state
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}main.0.weight" in state), None)
    if prefix is None:
        raise UserError(
            f"{location}: holds no PatchGAN, neither 'main.0.weight' nor the same behind "
            f"{' or '.join(repr(prefix) for prefix in _PREFIXES[1:])}; give a discriminator's weights"
        )
    kind = "PatchGAN of this width and number of layers"
    selected = select_tensors(state, like, location, kind, prefix)
    unknown = sorted(name for name in state if name.startswith(f"{prefix}main.") and name[len(prefix) :] not in like)
    if unknown:
        raise UserError(f"{location}: has the unknown '{unknown[0]}'; give a file with the weights of a {kind}")
    return selected
