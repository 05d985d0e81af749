"""The parts of the diffusion transformer, under the names of the published parameters."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LAYER_NORM_EPSILON = 1e-6

# With so many tokens, and heads of 64 channels, all pairs of tokens are at most twice the numbers of the perceptron's
# hidden layer; beyond, sampling in large batches had better not hold them. The choice may not depend on the batch size,
# because an image does not.
_FEW_TOKENS = 512


def _normalise_modulate(
    x: Float[Tensor, "b n d"], shift: Float[Tensor, "b d"], scale: Float[Tensor, "b d"]
) -> Float[Tensor, "b n d"]:
    # Autocast keeps the residual stream, hence this normalisation, in float32: see Transformer.features.
    normalised = F.layer_norm(x, x.shape[-1:], eps=_LAYER_NORM_EPSILON)
    return torch.addcmul(shift[:, None], normalised, 1 + scale[:, None])


class Modulation(nn.Sequential):
    """One linear layer from the condition to shifts, scales and gates; starts at zero (DiT, section 3.2).

    The published parameters are those of a SiLU and a linear layer, so the layer's name ends in ``.1``. The SiLU is the
    same for all blocks: the transformer applies it once, and this module expects its result.
    """

    def __init__(self, width: int, parts: int):
        """Map ``width`` channels to ``parts`` vectors of as many."""
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, input: Float[Tensor, "b d"]) -> tuple[Float[Tensor, "b d"], ...]:
        """Return the vectors for a condition that went through SiLU already."""
        return self[1](input).chunk(self.parts, dim=1)


def attend(
    q: Float[Tensor, "b h n e"], k: Float[Tensor, "b h n e"], v: Float[Tensor, "b h n e"]
) -> Float[Tensor, "b h n e"]:
    """Return softmax(q kᵀ / √e) v, by the kernel that is fastest where it runs."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and (torch.is_grad_enabled() or q.shape[2] <= _FEW_TOKENS):
        # The CPU's fused kernel is slow in bfloat16. Without it a training step is 1.7 times faster (16 tokens), and
        # attention 1.3 to 1.6 times without gradients (16 to 1024 tokens).
        # Written out, because torch's own plain kernel makes a step with 256 tokens 1.4 times as long.
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, qk_norm: bool = False):
        """Attend among tokens of ``width`` channels; ``qk_norm`` normalises each head's queries and keys."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        # timm's names and its epsilon, 1e-5, so that REPA's checkpoints with this switch load.
        self.q_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Mix tokens."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Under autocast normalisation gives float32, which would take attention off its fast kernels.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(b, n, d))


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

    def __init__(self, width: int, heads: int, hidden: int, qk_norm: bool = False):
        """Make attention, perceptron and the layer that modulates both."""
        super().__init__()
        self.attn = Attention(width, heads, qk_norm)
        self.mlp = Perceptron(width, hidden)
        self.adaLN_modulation = Modulation(width, 6)

    def forward(self, x: Float[Tensor, "b n d"], activated: Float[Tensor, "b d"]) -> Float[Tensor, "b n d"]:
        """Apply both residual branches; ``activated`` is the condition after its SiLU."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(activated)
        x = torch.addcmul(x, gate_a[:, None], self.attn(_normalise_modulate(x, shift_a, scale_a)))
        return torch.addcmul(x, gate_m[:, None], self.mlp(_normalise_modulate(x, shift_m, scale_m)))


class FinalLayer(nn.Module):
    """Modulated normalisation and the projection of tokens to patches."""

    def __init__(self, width: int, outputs: int):
        """Map tokens of ``width`` channels to ``outputs`` numbers each."""
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = Modulation(width, 2)

    def forward(self, x: Float[Tensor, "b n d"], activated: Float[Tensor, "b d"]) -> Float[Tensor, "b n outputs"]:
        """Project tokens; ``activated`` is the condition after its SiLU."""
        shift, scale = self.adaLN_modulation(activated)
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
