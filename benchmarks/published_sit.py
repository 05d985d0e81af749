"""The way SiT's published scripts run their network, for benchmarks: the same weights, other arithmetic around them.

Written anew from the behaviour of SiT's ``train.py``, ``models.py`` and ``transport`` (Ma et al., 2024), not copied.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from reals.models.transformer import Transformer
from reals.models.transformer_blocks import Block

_EMA_DECAY = 0.9999
_LABEL_DROPOUT = 0.1
_LEARNING_RATE = 1e-4


class PublishedNetwork(nn.Module):
    """The published forward pass over the parameters of a :class:`Transformer`; the outputs are the same.

    What differs: every block applies SiLU to the condition, modulates and gates in separate operations, attends by
    timm's call of torch's fused kernel, and the patches are put together by an einsum.
    """

    def __init__(self, network: Transformer):
        """Run the weights of ``network``, which are shared."""
        super().__init__()
        self.network = network

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], y: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction; in training mode a tenth of the labels is dropped, as there."""
        network = self.network
        if self.training:
            y = torch.where(torch.rand(len(y), device=y.device) < _LABEL_DROPOUT, network.null_label, y)
        tokens = network.x_embedder(x) + network.pos_embed
        condition = network.t_embedder(t) + network.y_embedder(y)
        for block in network.blocks:
            tokens = _block(block, tokens, condition)  # pyright: ignore[reportArgumentType]
        shift, scale = network.final_layer.adaLN_modulation[1](F.silu(condition)).chunk(2, dim=1)
        patches = network.final_layer.linear(_modulate(tokens, shift, scale))
        side, p = network.grid // network.config.patch_size, network.config.patch_size
        squares = patches.reshape(len(x), side, side, p, p, network.latent_channels)
        return torch.einsum("nhwpqc->nchpwq", squares).reshape(x.shape)

    def guided(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], y: Int[Tensor, " b"], scale: float
    ) -> Float[Tensor, "b c h w"]:
        """Return the guided prediction, twice: the batch's first half is run with both halves' labels."""
        half = x[: len(x) // 2]
        output = self(torch.cat([half, half]), t, y)
        leading, rest = output[:, :3], output[:, 3:]
        conditional, without = leading.chunk(2)
        guided = without + scale * (conditional - without)
        return torch.cat([torch.cat([guided, guided]), rest], dim=1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def _block(block: Block, x: Tensor, condition: Tensor) -> Tensor:
    parts = block.adaLN_modulation[1](F.silu(condition)).chunk(6, dim=1)
    x = x + parts[2].unsqueeze(1) * _attention(block, _modulate(x, parts[0], parts[1]))
    hidden = F.gelu(block.mlp.fc1(_modulate(x, parts[3], parts[4])), approximate="tanh")
    return x + parts[5].unsqueeze(1) * block.mlp.fc2(hidden)


def _attention(block: Block, x: Tensor) -> Tensor:
    attention, (b, n, d) = block.attn, x.shape
    q, k, v = attention.qkv(x).reshape(b, n, 3, attention.heads, d // attention.heads).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


@torch.no_grad()
def published_samples(
    network: PublishedNetwork,
    start: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    scale: float,
    steps: int,
    dtype: torch.dtype,
    last_step: float = 0.04,
) -> Float[Tensor, "b c h w"]:
    """Return latents by SiT's Euler-Maruyama sampler with diffusion σ and a mean last step, guided throughout.

    Drift and score each evaluate the guided network, which is given every latent twice; ``steps`` counts both kinds of
    step, so there are ``2 * steps`` evaluations. All states are kept, and the noise of both halves is drawn.
    """
    network.eval()
    x = torch.cat([start, start])
    y = torch.cat([labels, torch.full_like(labels, network.network.null_label)])

    def drift(x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            return network.guided(x, t, y, scale)

    def diffusion(x: Tensor, t: Tensor) -> Tensor:
        return (1 - t).view(-1, 1, 1, 1)

    def score(x: Tensor, t: Tensor) -> Tensor:
        line = t.view(-1, 1, 1, 1)
        variance = (1 - line) ** 2 + line * (1 - line)
        return (line * drift(x, t) - x) / variance

    def stochastic_drift(x: Tensor, t: Tensor) -> Tensor:
        return drift(x, t) + diffusion(x, t) * score(x, t)

    times = torch.linspace(0, 1 - last_step, steps)
    length, states = times[1] - times[0], []
    for time in times[:-1]:
        noise = torch.randn(x.shape).to(x)
        t = torch.ones(len(x)).to(x) * time
        x = x + stochastic_drift(x, t) * length + (2 * diffusion(x, t)).sqrt() * noise * length.sqrt()
        states.append(x)
    t = torch.ones(len(x), device=x.device) * times[-1]
    states.append(x + stochastic_drift(x, t) * last_step)
    return states[-1].chunk(2)[0]


class PublishedTrainer:
    """The published training step on latents: plain AdamW, an average in a loop over tensors, the loss read at once."""

    def __init__(self, network: Transformer):
        """Train the weights of ``network``."""
        self.network = PublishedNetwork(network).train()
        self.average = deepcopy(self.network)
        self.adam = torch.optim.AdamW(self.network.parameters(), lr=_LEARNING_RATE, weight_decay=0)

    def step(self, latents: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], dtype: torch.dtype) -> float:
        """Take one step in float32, as published, or in autocast; return the loss."""
        noise = torch.randn_like(latents)
        t = torch.rand(len(latents)).to(latents)
        line = t.view(-1, 1, 1, 1)
        with torch.autocast(latents.device.type, dtype=dtype, enabled=dtype != torch.float32):
            output = self.network(line * latents + (1 - line) * noise, t, labels)
        loss = (output - (latents - noise)).square().flatten(1).mean(1).mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self._move_average()
        return loss.item()

    @torch.no_grad()
    def _move_average(self) -> None:
        averages = dict(self.average.named_parameters())
        for name, parameter in self.network.named_parameters():
            averages[name].mul_(_EMA_DECAY).add_(parameter.data, alpha=1 - _EMA_DECAY)
