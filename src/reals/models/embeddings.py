"""What enters the diffusion transformer beside the latent: positions, time and class."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_MAX_PERIOD = 10_000.0
_FREQUENCY_CHANNELS = 256


def position_embedding(width: int, rows: int, columns: int) -> Float[Tensor, "1 tokens width"]:
    """Return the fixed 2-D sine-cosine embedding of SiT and DiT, tokens in row-major order.

    The first half of the channels encodes the column, the second half the row; within each half sines come before
    cosines, at angular frequencies ``10000^(-i / (width / 4))``.
    """
    quarter = width // 4
    frequencies = _MAX_PERIOD ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing="ij"
    )
    angles = [axis.reshape(-1, 1) * frequencies for axis in (column, row)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()[None]


def time_frequencies(t: Float[Tensor, " b"]) -> Float[Tensor, "b 256"]:
    """Return the sinusoid of the time, cosines before sines; SiT feeds t in [0, 1] without scaling it."""
    half = _FREQUENCY_CHANNELS // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=t.device).mul_(-math.log(_MAX_PERIOD) / half)
    )
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedder(nn.Module):
    """Sinusoid of the time, then a two-layer perceptron."""

    def __init__(self, width: int):
        """Map times to vectors of ``width`` channels."""
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCY_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Embed times in [0, 1]."""
        # The sinusoid is float32; a network kept in bfloat16 without autocast needs it in its own type.
        return self.mlp(time_frequencies(t).to(self.mlp.get_parameter("0.weight").dtype))


class LabelEmbedder(nn.Module):
    """A vector per class and one for the null class, on which classifier-free guidance rests.

    In training mode each label is replaced by the null class with probability ``dropout`` (Ho & Salimans, 2022),
    by torch's global generator.
    """

    def __init__(self, num_classes: int, width: int, dropout: float):
        """Make a table of ``num_classes + 1`` rows; the last is the null class."""
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)
        self.num_classes = num_classes
        self.dropout = dropout

    def forward(self, y: Int[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Embed class labels."""
        return self.embedding_table(y)
