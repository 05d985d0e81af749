"""The diffusion transformer of SiT and DiT: published parameter names, shapes and outputs, so their weights load.

A network only: it maps a noisy latent, a time and a class to a tensor like the latent, and knows nothing of noise
schedules, losses or guidance. SiT and DiT are one network: what differs is the scale of the time, which the caller
chooses ([0, 1] or 0 to 999), and whether the second half of the output is kept.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reals.models.embeddings import LabelEmbedder, TimeEmbedder, position_embedding
from reals.models.transformer_blocks import Block, FinalLayer, PatchEmbedder
from reals.runtime.errors import UserError

_EMBEDDING_STD = 0.02

SizeName = Literal["S", "B", "L", "XL"]
"""A published size."""

PatchSize = Literal[1, 2, 4, 8]
"""Sides of the square of latent positions that becomes one token; 1 was not published."""

SIZES: dict[SizeName, tuple[int, int, int]] = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
"""Depth, width and heads of each published size (DiT, table 1)."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of a diffusion transformer (SiT: Ma et al., 2024; DiT: Peebles & Xie, 2023)."""

    depth: int
    """Number of blocks."""
    width: int
    """Channels of a token."""
    heads: int
    """Attention heads; they divide the width."""
    patch_size: int
    """Side of the square of latent positions that becomes one token."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's perceptron, as a multiple of the width."""
    label_dropout: float = 0.1
    """Probability of training on the null class instead of the label, which classifier-free guidance needs. The
    training data loader applies it, image by image; the network itself never drops a label."""
    learn_sigma: bool = False
    """Predict twice the channels, as the released checkpoints of SiT and DiT do."""
    variance: bool = False
    """Return the second half too, DiT's learned variance; SiT drops it."""
    qk_norm: bool = False
    """Normalise the queries and keys of each head, with learned scale and shift: REPA's switch of this name."""
    frequency_shift: int = 0
    """Angular frequencies of the time are ``10000^(-i / (128 - shift))``: 0 in SiT and DiT, 1 in diffusers' DiT."""

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}; it must divide the width, {self.width}")
        if self.width % 4:
            raise ValueError(f"width is {self.width}; it must be a multiple of 4 for the position embedding")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; it must be positive")
        if not 0.0 <= self.label_dropout < 1.0:
            raise ValueError(f"label_dropout is {self.label_dropout}; it must lie in [0, 1)")
        if self.variance and not self.learn_sigma:
            raise ValueError("variance is on without learn_sigma; only a network that learns sigma has a second half")
        if self.frequency_shift not in (0, 1):
            raise ValueError(f"frequency_shift is {self.frequency_shift}; it must be 0 or 1")

    def build(self, latent_channels: int, grid: int, num_classes: int) -> "Transformer":
        """Make the network for latents of ``latent_channels`` x ``grid`` x ``grid`` and ``num_classes`` classes.

        Unlabelled data has one class, 0.

        Raises:
            UserError: the patch size does not divide the grid.
        """
        return Transformer(self, latent_channels, grid, num_classes)


@dataclass(frozen=True, kw_only=True)
class NamedTransformer:
    """A published size by its name: SiT-XL/2 and DiT-XL/2 are size XL with patches of 2."""

    size: SizeName
    """33, 130, 458 or 675 million parameters."""
    patch_size: PatchSize = 2
    """Side of the square of latent positions that becomes one token; 1 suits autoencoders that downsample by 16."""
    label_dropout: float = 0.1
    """Probability of training on the null class instead of the label."""
    learn_sigma: bool = False
    """Predict twice the channels, as the released checkpoints of SiT and DiT do."""
    variance: bool = False
    """Return the second half too, DiT's learned variance; SiT drops it."""
    qk_norm: bool = False
    """Normalise the queries and keys of each head."""

    def __post_init__(self) -> None:
        self.config()

    def config(self) -> TransformerConfig:
        """Return the size in numbers.

        Raises:
            ValueError: the settings contradict each other.
        """
        depth, width, heads = SIZES[self.size]
        return TransformerConfig(
            depth=depth,
            width=width,
            heads=heads,
            patch_size=self.patch_size,
            label_dropout=self.label_dropout,
            learn_sigma=self.learn_sigma,
            variance=self.variance,
            qk_norm=self.qk_norm,
        )


def SIT_S(patch_size: PatchSize) -> TransformerConfig:
    """Return the size S, 33 M parameters."""
    return NamedTransformer(size="S", patch_size=patch_size).config()


def SIT_B(patch_size: PatchSize) -> TransformerConfig:
    """Return the size B, 130 M parameters."""
    return NamedTransformer(size="B", patch_size=patch_size).config()


def SIT_L(patch_size: PatchSize) -> TransformerConfig:
    """Return the size L, 458 M parameters."""
    return NamedTransformer(size="L", patch_size=patch_size).config()


def SIT_XL(patch_size: PatchSize) -> TransformerConfig:
    """Return the size XL, 675 M parameters."""
    return NamedTransformer(size="XL", patch_size=patch_size).config()


class Transformer(nn.Module):
    """SiT or DiT; made by :meth:`TransformerConfig.build`. The same input gives the same output in every mode."""

    checkpoint_activations: bool = False
    """Set by training: keep only the tokens between blocks and compute the rest anew in the backward pass. Memory for
    activations falls by an order of magnitude and a step costs one more forward pass; results stay the same."""

    def __init__(self, config: TransformerConfig, latent_channels: int, grid: int, num_classes: int):
        """Make the network with the published initialisation: its output is exactly 0.

        Raises:
            UserError: the patch size does not divide the grid.
        """
        super().__init__()
        if grid % config.patch_size:
            raise UserError(
                f"the transformer's patch_size is {config.patch_size}, which does not divide the {grid}x{grid} latent; "
                "choose a patch size that does"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; it must be at least 1 (unlabelled data is one class)")
        self.config = config
        self.latent_channels = latent_channels
        self.grid = grid
        self.num_classes = num_classes
        width, patch_size = config.width, config.patch_size
        side = grid // patch_size
        # A parameter, although never trained, because the published checkpoints hold it.
        self.pos_embed = nn.Parameter(position_embedding(width, side, side), requires_grad=False)
        self.x_embedder = PatchEmbedder(latent_channels, width, patch_size)
        self.t_embedder = TimeEmbedder(width, config.frequency_shift)
        self.y_embedder = LabelEmbedder(num_classes, width)
        hidden = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, config.heads, hidden, config.qk_norm) for _ in range(config.depth))
        outputs = latent_channels * (2 if config.learn_sigma else 1)
        self.final_layer = FinalLayer(width, patch_size**2 * outputs)
        self.initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.num_classes

    @property
    def output_channels(self) -> int:
        """Channels of the output: the latent's, and as many again with a learned variance."""
        return self.latent_channels * (2 if self.config.variance else 1)

    def shards(self) -> list[nn.Module]:
        """Return the parts to gather one at a time where weights are spread over processes."""
        return list(self.blocks)

    def initialise(self) -> None:
        """Draw the weights afresh as SiT does: Xavier-uniform linear layers, zero modulation and zero output."""
        for name, parameter in self.named_parameters():
            if name == "pos_embed":
                continue
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer"):
                nn.init.zeros_(parameter)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                nn.init.ones_(parameter)
            elif name.startswith(("t_embedder", "y_embedder")):
                nn.init.normal_(parameter, std=_EMBEDDING_STD)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))  # A patch convolution is a linear layer on patches.

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"] | Int[Tensor, " b"], y: Int[Tensor, " b"]
    ) -> Float[Tensor, "b outputs h w"]:
        """Map noisy latents at times ``t`` and classes ``y`` to a tensor like ``x``.

        SiT's times lie in [0, 1], 0 being noise; DiT's are integers from 0 to 999, 0 being data. With
        ``config.variance`` the output has twice the channels, the learned variance last.
        """
        return self.features(x, t, y, block=len(self.blocks))[0]

    def features(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"] | Int[Tensor, " b"], y: Int[Tensor, " b"], block: int
    ) -> tuple[Float[Tensor, "b outputs h w"], Float[Tensor, "b n d"]]:
        """Return the output and the tokens after block number ``block``, counted from 1 as REPA's ``encoder_depth``.

        Raises:
            ValueError: there is no such block.
        """
        if not 1 <= block <= len(self.blocks):
            raise ValueError(f"block is {block}; it must lie between 1 and the depth, {len(self.blocks)}")
        # Adding the float32 position embedding keeps the residual stream in float32 under autocast.
        tokens = self.x_embedder(x) + self.pos_embed
        activated = F.silu(self.t_embedder(t) + self.y_embedder(y))
        kept = tokens
        for number, layer in enumerate(self.blocks, start=1):
            if self.checkpoint_activations and torch.is_grad_enabled():
                # Blocks draw no random numbers.
                tokens = checkpoint(layer, tokens, activated, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = layer(tokens, activated)
            if number == block:
                kept = tokens
        return self._to_latent(self.final_layer(tokens, activated)), kept

    def _to_latent(self, patches: Float[Tensor, "b n outputs"]) -> Float[Tensor, "b channels h w"]:
        side, p, channels = self.grid // self.config.patch_size, self.config.patch_size, self.output_channels
        # Channels vary fastest within a patch, so the first half of them is a slice, not a copy.
        squares = patches.view(len(patches), side, side, p, p, -1)[..., :channels]
        return squares.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), channels, self.grid, self.grid)
