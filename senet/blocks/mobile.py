"""Blocks of MobileNet (arXiv:1704.04861) and ShuffleNet (arXiv:1707.01083), and the two places a unit can take in each.

MobileNet's "pointwise" is after the ReLU of the pointwise convolution, "depthwise" after that of the depthwise one.
ShuffleNet's "branch" is the end of the branch, before the sum or the concatenation, "unit" after their ReLU.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig


def mobile_stem(in_channels: int, width: int) -> OrderedDict[str, nn.Module]:
    """3x3 convolution with stride 2, batch norm, ReLU: `(N, in_channels, H, W) -> (N, width, H/2, W/2)`."""
    return OrderedDict(
        conv=nn.Conv2d(in_channels, width, 3, 2, 1, bias=False),
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(inplace=True),
    )


class Separable(nn.Module):
    """MobileNet's pair, each with batch norm and ReLU: 3x3 on every channel by itself, with the stride, then 1x1.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`. arXiv:1704.04861, Figure 3.
    """

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, in_channels: int, out: int, *, stride: int, se: UnitConfig | None, se_at: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.se = se.build(in_channels if se_at == "depthwise" else out) if se else None
        self.se_at = se_at

    def gated(self, u: Tensor, place: str) -> Tensor:
        """`u` through the unit if this is the unit's place, else `u`."""
        return self.se(u) if self.se is not None and self.se_at == place else u

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        u = self.norm_relu(self.conv1(x), self.norm1)
        u = self.gated(u, "depthwise")
        u = self.norm_relu(self.conv2(u), self.norm2)
        return self.gated(u, "pointwise")


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle (arXiv:1707.01083, section 3.1): channel k of group g goes to place k G + g. Same shape.

    >>> shuffle(torch.arange(6).reshape(1, 6, 1, 1), 2).flatten()
    tensor([0, 3, 1, 4, 2, 5])
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def concat_epilogue(x: Tensor, norm: nn.Module, se: nn.Module | None, shortcut: Tensor) -> Tensor:
    """`functional.block_epilogue` with a concatenation, the shortcut first, in place of the sum.

    `(N, C, H, W) -> (N, C + C_shortcut, H, W)`.
    """
    u = norm(x)
    if se is not None:
        u = se(u)
    return F.relu(torch.cat([shortcut, u], 1), inplace=True)


class ShuffleUnit(nn.Module):
    """1x1 in groups, channel shuffle, 3x3 on every channel by itself, 1x1 in groups. arXiv:1707.01083, Figure 2.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`, the inner width a quarter of out. Without a stride, out is C.
    With stride 2 the shortcut is a 3x3 mean, padding counted, and the branch gives the other out - C channels.

    first_groups: of the first 1x1, where they are not `groups`.
    """

    epilogue = staticmethod(sf.block_epilogue)
    concat_epilogue = staticmethod(concat_epilogue)
    norm_relu = staticmethod(sf.norm_relu)

    def __init__(
        self,
        in_channels: int,
        out: int,
        *,
        stride: int,
        groups: int,
        first_groups: int,
        se: UnitConfig | None,
        se_at: str,
    ) -> None:
        super().__init__()
        mid, branch = out // 4, out if stride == 1 else out - in_channels
        self.conv1 = nn.Conv2d(in_channels, mid, 1, groups=first_groups, bias=False)
        self.norm1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, branch, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(branch)
        self.shortcut = nn.Identity() if stride == 1 else nn.AvgPool2d(3, stride, 1)
        self.se = se.build(branch if se_at == "branch" else out) if se else None
        self.se_at, self.groups, self.stride = se_at, groups, stride

    @property
    def epilogue_unit(self) -> nn.Module | None:
        """The unit, if it is in the epilogue."""
        return self.se if self.se_at == "branch" else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        u = self.norm_relu(self.conv1(x), self.norm1)
        u = self.norm2(self.conv2(shuffle(u, self.groups)))
        epilogue = self.epilogue if self.stride == 1 else self.concat_epilogue
        y = epilogue(self.conv3(u), self.norm, self.epilogue_unit, self.shortcut(x))
        return y if self.se is None or self.se_at == "branch" else self.se(y)
