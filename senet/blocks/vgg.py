"""The layers of VGG (arXiv:1409.1556), with batch norm. A unit's place is after the ReLU of each convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig

GRID = 7


class VGGBlock(nn.Module):
    """3x3 convolution, batch norm, ReLU, unit: `(N, C, H, W) -> (N, out, H, W)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, in_channels: int, out: int, *, bias: bool, se: UnitConfig | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(out)
        self.se = se.build(out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """The recalibrated map."""
        u = self.norm_relu(self.conv(x), self.norm)
        return u if self.se is None else self.se(u)


class VGGHead(nn.Module):
    """Two hidden fully connected layers over a grid of 7x7 means: `(N, C, h, w) -> (N, hidden)`.

    At 224 pixels the map is that grid already, as in the original; other sizes are averaged, or repeated, to it.
    """

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.grid = nn.AdaptiveAvgPool2d(GRID)
        self.fc1 = nn.Linear(channels * GRID**2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """The classifier's input, before its own dropout."""
        z = F.relu(self.fc1(self.grid(x).flatten(1)), inplace=True)
        return F.relu(self.fc2(self.dropout(z)), inplace=True)
