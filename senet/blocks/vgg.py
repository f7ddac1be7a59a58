"""The layers of VGG (arXiv:1409.1556) with batch norm. A unit sits after the ReLU of each convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig


class VGGBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU, unit: `(N, C, H, W) -> (N, out, H, W)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, in_channels: int, out: int, *, bias: bool, se: UnitConfig | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(out)
        self.se = se.build(out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        u = self.norm_relu(self.conv(x), self.norm)
        return u if self.se is None else self.se(u)


class VGGHead(nn.Module):
    """Two hidden fully connected layers after pooling to a grid: `(N, C, h, w) -> (N, hidden)`.

    At 224 pixels the feature map already has 7x7 positions, as in the original. Other sizes are averaged or repeated.

    Args:
        channels: Channels of the feature map.
        grid: Side of the grid.
        hidden: Width of both layers.
        dropout: Probability of the dropout between them.
    """

    def __init__(self, channels: int, grid: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.grid = nn.AdaptiveAvgPool2d(grid)
        self.fc1 = nn.Linear(channels * grid**2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the classifier's input."""
        z = F.relu(self.fc1(self.grid(x).flatten(1)), inplace=True)
        return F.relu(self.fc2(self.dropout(z)), inplace=True)
