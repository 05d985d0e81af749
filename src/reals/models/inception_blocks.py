"""The five kinds of blocks of Inception v3 (Szegedy et al., 1512.00567, figures 5 to 7), as FID's weights need them.

Attributes have the names of the published weights, so that these load as they are.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Images = Float[Tensor, "b _ _ _"]


def average_pool(hidden: Images) -> Images:
    """Average 3x3 neighbourhoods; at borders over the pixels that exist, as TensorFlow does."""
    return F.avg_pool2d(hidden, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(hidden: Images) -> Images:
    """Take the maximum of 3x3 neighbourhoods."""
    return F.max_pool2d(hidden, 3, stride=1, padding=1)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation with ε 0.001, ReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, hidden: Images) -> Images:
        """Return the activations."""
        return F.relu(self.bn(self.conv(hidden)), inplace=True)


class BlockA(nn.Module):
    """35 x 35: one 5x5 branch and one of two 3x3."""

    def __init__(self, channels: int, *, pool_width: int):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 64, 1)
        self.branch5x5_1 = ConvNorm(channels, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(channels, pool_width, 1)

    def forward(self, hidden: Images) -> Images:
        """Return the four branches side by side."""
        branches = [
            self.branch1x1(hidden),
            self.branch5x5_2(self.branch5x5_1(hidden)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))),
            self.branch_pool(average_pool(hidden)),
        ]
        return torch.cat(branches, dim=1)


class BlockB(nn.Module):
    """From 35 x 35 to 17 x 17."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3 = ConvNorm(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(channels, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, hidden: Images) -> Images:
        """Return the three branches side by side."""
        branches = [
            self.branch3x3(hidden),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))),
            F.max_pool2d(hidden, 3, stride=2),
        ]
        return torch.cat(branches, dim=1)


class BlockC(nn.Module):
    """17 x 17: 7x7 convolutions as pairs of 1x7 and 7x1."""

    def __init__(self, channels: int, *, width: int):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 192, 1)
        self.branch7x7_1 = ConvNorm(channels, width, 1)
        self.branch7x7_2 = ConvNorm(width, width, (1, 7), padding=(0, 3))
        self.branch7x7_3 = ConvNorm(width, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = ConvNorm(channels, width, 1)
        self.branch7x7dbl_2 = ConvNorm(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = ConvNorm(width, width, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = ConvNorm(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = ConvNorm(width, 192, (1, 7), padding=(0, 3))
        self.branch_pool = ConvNorm(channels, 192, 1)

    def forward(self, hidden: Images) -> Images:
        """Return the four branches side by side."""
        return self.join(self.branch1x1(hidden), hidden)

    def join(self, first_branch: Images, hidden: Images) -> Images:
        """Return the block's output, given what its 1x1 branch makes of ``hidden``."""
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(hidden)))
        branches = [
            first_branch,
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(hidden))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(average_pool(hidden)),
        ]
        return torch.cat(branches, dim=1)


class BlockD(nn.Module):
    """From 17 x 17 to 8 x 8."""

    def __init__(self, channels: int):
        super().__init__()
        self.branch3x3_1 = ConvNorm(channels, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(channels, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, hidden: Images) -> Images:
        """Return the three branches side by side."""
        branches = [
            self.branch3x3_2(self.branch3x3_1(hidden)),
            self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(hidden)))),
            F.max_pool2d(hidden, 3, stride=2),
        ]
        return torch.cat(branches, dim=1)


class BlockE(nn.Module):
    """8 x 8: 3x3 convolutions as a 1x3 beside a 3x1; ``pool`` comes before the last branch's convolution."""

    def __init__(self, channels: int, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.branch1x1 = ConvNorm(channels, 320, 1)
        self.branch3x3_1 = ConvNorm(channels, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvNorm(channels, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNorm(channels, 192, 1)
        self._pool = pool

    def forward(self, hidden: Images) -> Images:
        """Return the branches side by side."""
        single = self.branch3x3_1(hidden)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))
        branches = [
            self.branch1x1(hidden),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self._pool(hidden)),
        ]
        return torch.cat(branches, dim=1)
