"""The diffusion transformer of SiT and DiT: published parameter names, shapes and outputs, so their weights load.

A network only: it maps a noisy latent, a time and a class to a tensor like the latent, and knows nothing of noise
schedules, losses or guidance.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reals.models.embeddings import LabelEmbedder, TimeEmbedder, position_embedding
from reals.runtime.errors import UserError

_LAYER_NORM_EPSILON = 1e-6
_EMBEDDING_STD = 0.02


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
    """Probability of training on the null class instead of the label, which classifier-free guidance needs."""
    learn_sigma: bool = False
    """Predict twice the channels and drop the second half, as SiT's released checkpoints do."""

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

    def build(self, latent_channels: int, grid: int, num_classes: int) -> "Transformer":
        """Make the network for latents of ``latent_channels`` x ``grid`` x ``grid`` and ``num_classes`` classes.

        Unlabelled data has one class, 0.

        Raises:
            UserError: the patch size does not divide the grid.
        """
        return Transformer(self, latent_channels, grid, num_classes)


def SIT_S(patch_size: int) -> TransformerConfig:
    """Return the size S, 33 M parameters."""
    return TransformerConfig(depth=12, width=384, heads=6, patch_size=patch_size)


def SIT_B(patch_size: int) -> TransformerConfig:
    """Return the size B, 130 M parameters."""
    return TransformerConfig(depth=12, width=768, heads=12, patch_size=patch_size)


def SIT_L(patch_size: int) -> TransformerConfig:
    """Return the size L, 458 M parameters."""
    return TransformerConfig(depth=24, width=1024, heads=16, patch_size=patch_size)


def SIT_XL(patch_size: int) -> TransformerConfig:
    """Return the size XL, 675 M parameters."""
    return TransformerConfig(depth=28, width=1152, heads=16, patch_size=patch_size)


def _normalise_modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b n d"]:
    # Autocast keeps the residual stream, hence this normalisation, in float32: see Transformer.forward.
    normalised = F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON)
    return torch.addcmul(shift[:, None], normalised, 1 + scale[:, None])


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int):
        """Attend among tokens of ``width`` channels."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Mix tokens."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        # The CPU's fused kernel has a slow backward pass in bfloat16; without it a training step is 1.7 times faster.
        plain = x.device.type == "cpu" and torch.is_grad_enabled() and q.dtype == torch.bfloat16
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, d))


class Perceptron(nn.Module):
    """Two linear layers with the tanh form of GELU between them."""

    def __init__(self, width: int, hidden: int):
        """Map tokens of ``width`` channels through ``hidden`` channels."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Map each token."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class Block(nn.Module):
    """A transformer block modulated by time and class: adaLN-Zero (DiT, section 3.2)."""

    def __init__(self, width: int, heads: int, hidden: int):
        """Make attention, perceptron and the layer that modulates both."""
        super().__init__()
        self.attn = Attention(width, heads)
        self.mlp = Perceptron(width, hidden)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """Apply both residual branches."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(condition).chunk(6, dim=1)
        x = torch.addcmul(x, gate_a[:, None], self.attn(_normalise_modulate(x, shift_a, scale_a)))
        return torch.addcmul(x, gate_m[:, None], self.mlp(_normalise_modulate(x, shift_m, scale_m)))


class FinalLayer(nn.Module):
    """Modulated normalisation and the projection of tokens to patches."""

    def __init__(self, width: int, outputs: int):
        """Map tokens of ``width`` channels to ``outputs`` numbers each."""
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b d"]) -> Float[Tensor, "b n outputs"]:
        """Project tokens."""
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
        return self.linear(_normalise_modulate(x, shift, scale))


class PatchEmbedder(nn.Module):
    """Squares of latent positions to tokens."""

    def __init__(self, channels: int, width: int, patch_size: int):
        """Map each ``patch_size`` x ``patch_size`` square of ``channels`` to a token of ``width`` channels."""
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Embed patches, in row-major order."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Transformer(nn.Module):
    """SiT; made by :meth:`TransformerConfig.build`."""

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
        self.t_embedder = TimeEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width, config.label_dropout)
        hidden = int(width * config.mlp_ratio)
        self.blocks = nn.ModuleList(Block(width, config.heads, hidden) for _ in range(config.depth))
        outputs = latent_channels * (2 if config.learn_sigma else 1)
        self.final_layer = FinalLayer(width, patch_size**2 * outputs)
        self.initialise()

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.num_classes

    def initialise(self) -> None:
        """Draw the weights afresh as SiT does: Xavier-uniform linear layers, zero modulation and zero output."""
        for name, parameter in self.named_parameters():
            if name == "pos_embed":
                continue
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer"):
                nn.init.zeros_(parameter)
            elif name.startswith(("t_embedder", "y_embedder")):
                nn.init.normal_(parameter, std=_EMBEDDING_STD)
            else:
                nn.init.xavier_uniform_(parameter.flatten(1))  # A patch convolution is a linear layer on patches.

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], y: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Map noisy latents at times ``t`` in [0, 1] (0 is noise) and classes ``y`` to a tensor like ``x``."""
        return self.features(x, t, y, len(self.blocks))[0]

    checkpoint_activations: bool = False

    def features(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], y: Int[Tensor, " b"], block: int
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n d"]]:
        """Return the output and the tokens after block number ``block``, counted from 1."""
        # Adding the float32 position embedding keeps the residual stream in float32 under autocast.
        tokens = self.x_embedder(x) + self.pos_embed
        condition = self.t_embedder(t) + self.y_embedder(y)
        kept = tokens
        for number, layer in enumerate(self.blocks, start=1):
            if self.checkpoint_activations:
                tokens = torch.utils.checkpoint.checkpoint(layer, tokens, condition, use_reentrant=False)
            else:
                tokens = layer(tokens, condition)
            kept = tokens if number == block else kept
        return self._to_latent(self.final_layer(tokens, condition)), kept

    def _to_latent(self, patches: Float[Tensor, "b n outputs"]) -> Float[Tensor, "b c h w"]:
        side, p = self.grid // self.config.patch_size, self.config.patch_size
        # Channels vary fastest within a patch, so the first half of them is a slice, not a copy.
        squares = patches.view(len(patches), side, side, p, p, -1)[..., : self.latent_channels]
        return squares.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), self.latent_channels, self.grid, self.grid)
