"""Representation alignment of a diffusion transformer's hidden tokens (REPA: Yu et al., 2024, arXiv 2410.06940).

It wraps any objective: the objective's network becomes a tap that lets the same forward pass hand over the tokens after
one block. What is trained for this alone, the projector, is no part of the network and is not needed to sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class RepaConfig:
    """Which tokens are aligned, and how strongly; REPA uses a weight of 0.5."""

    weight: float = 0.0
    """λ, the term's weight beside the diffusion loss; 0 leaves it out."""
    block: int = 8
    """The tokens after this block are aligned, counted from 1 (REPA's encoder_depth)."""
    hidden: int = 2048
    """Width of the projector's two hidden layers."""

    def __post_init__(self) -> None:
        if self.weight < 0.0:
            raise ValueError(f"weight is {self.weight}; it must not be negative")
        for name in ("block", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def build(
        self, network: nn.Module, width: int, feature_dim: int, objective: Callable[[nn.Module], nn.Module]
    ) -> "RepaObjective":
        """Return an objective that trains ``network`` by ``objective(network)`` and by alignment.

        Args:
            network: has ``features``, see :class:`HasTokens`.
            width: channels of its tokens.
            feature_dim: length of the semantic encoder's patch features.
            objective: such as ``FlowMatching().build``.
        """
        tap = TokenTap(network, self.block)
        return RepaObjective(self, tap, objective(tap), Projector(width, self.hidden, feature_dim))


@runtime_checkable
class HasTokens(Protocol):
    """A network that shows its tokens on the way."""

    def features(self, x: Tensor, t: Tensor, y: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """Return the output and the tokens after block ``block`` (from 1), [b, n, width], in row-major order."""
        ...


class TokenTap(nn.Module):
    """The network as an objective calls it; each forward pass also keeps the tokens after one block."""

    def __init__(self, network: nn.Module, block: int):
        """Tap ``network`` after block ``block``.

        Raises:
            ValueError: the network does not show its tokens.
        """
        super().__init__()
        if not isinstance(network, HasTokens):
            raise ValueError(f"{type(network).__name__} has no features(x, t, y, block) to align")
        self.network = network
        self.block = block
        self._tokens: list[Tensor] = []

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"] | Int[Tensor, " b"], y: Int[Tensor, " b"]
    ) -> Float[Tensor, "b outputs h w"]:
        """Return the network's output."""
        output, tokens = cast(HasTokens, self.network).features(x, t, y, self.block)
        self._tokens.append(tokens)
        return output

    def take(self) -> Float[Tensor, "b n d"]:
        """Return the tokens of the one forward pass since the last call, and let go of them.

        Raises:
            ValueError: there was none, or more than one.
        """
        tokens, self._tokens = self._tokens, []
        if len(tokens) != 1:
            raise ValueError(f"the objective called its network {len(tokens)} times; alignment needs one call")
        return tokens[0]


class Projector(nn.Sequential):
    """The perceptron from tokens to patch features: three linear layers with SiLU between them (REPA, appendix)."""

    def __init__(self, width: int, hidden: int, feature_dim: int):
        """Map ``width`` channels to ``feature_dim``."""
        super().__init__(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, feature_dim)
        )


def to_grid(
    patches: Float[Tensor, "b rows columns d"], grid: tuple[int, int]
) -> Float[Tensor, "b grid_rows grid_columns d"]:
    """Return patch features on another grid.

    Where each new cell covers whole old ones it is their mean, as with stage 1's features on the latent grid and a
    patch size of 2; else they are interpolated bilinearly, with antialiasing.
    """
    rows, columns = patches.shape[1:3]
    if (rows, columns) == grid:
        return patches
    channels_first = patches.permute(0, 3, 1, 2)
    if rows % grid[0] == 0 and columns % grid[1] == 0:
        resized = F.avg_pool2d(channels_first, (rows // grid[0], columns // grid[1]))
    else:
        resized = F.interpolate(channels_first, size=grid, mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1)


def alignment_loss(
    projected: Float[Tensor, "b n d"], patches: Float[Tensor, "b rows columns d"], grid: tuple[int, int]
) -> Float[Tensor, ""]:
    """Return -mean cos(projected token, patch feature) over tokens and images, in float32; -1 is perfect.

    As REPA has it, without the 1 that would make it a distance: the gradients are the same.

    Args:
        projected: tokens of ``grid``, row by row.
        patches: the semantic encoder's features, brought to ``grid`` by :func:`to_grid`.
        grid: rows and columns of tokens.
    """
    target = to_grid(patches.float(), grid).flatten(1, 2)
    return -F.cosine_similarity(projected.float(), target, dim=-1).mean()


class RepaObjective(nn.Module):
    """A diffusion objective plus λ times the alignment loss; made by :meth:`RepaConfig.build`."""

    def __init__(self, config: RepaConfig, tap: TokenTap, objective: nn.Module, projector: Projector):
        """Combine ``objective``, whose network is ``tap``, with the alignment of what ``tap`` keeps."""
        super().__init__()
        self.weight = config.weight
        self.objective = objective
        self.projector = projector
        # The objective owns it: registered twice, every parameter would have two names.
        self._tap = (tap,)

    @property
    def tap(self) -> TokenTap:
        """What the diffusion objective calls."""
        return self._tap[0]

    @property
    def network(self) -> nn.Module:
        """The network itself, without its tap."""
        return self.tap.network

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
        quantile: Float[Tensor, " b"],
        patches: Float[Tensor, "b rows columns d"],
    ) -> dict[str, Tensor]:
        """Return the sum as ``loss``, its parts ``diffusion`` and ``repa`` (not yet weighted), and what else is logged.

        Args:
            latents: normalised.
            labels: some of them the null label.
            noise: standard normal.
            quantile: chooses the time, in [0, 1).
            patches: the semantic encoder's patch features of the very images, mirrored where these are.
        """
        losses = self.objective(latents, labels, noise, quantile)
        tokens = self.tap.take()
        alignment = alignment_loss(self.projector(tokens), patches, _token_grid(latents, tokens))
        parts = {"loss": losses["loss"] + self.weight * alignment, "repa": alignment.detach()}
        return parts | {"diffusion": losses["loss"].detach()} | {n: v for n, v in losses.items() if n != "loss"}


def _token_grid(latents: Tensor, tokens: Tensor) -> tuple[int, int]:
    """Return rows and columns of the tokens, each a square of latent positions."""
    rows, columns = latents.shape[2:]
    side = round((rows * columns / tokens.shape[1]) ** 0.5)
    return rows // side, columns // side
