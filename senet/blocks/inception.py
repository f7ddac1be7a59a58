"""Inception modules: branches side by side, joined by their channels (arXiv:1409.4842, arXiv:1502.03167).

The standard place of a unit is after the join, on the whole module (arXiv:1709.01507v4, Figure 2); in Inception-ResNet
it is on the residual branch, before its scaling and the sum (section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig


class ConvNormReLU(nn.Module):
    """Convolution, batch norm, ReLU: `(N, in_channels, H, W) -> (N, out, h, w)`.

    kernel: side, or height and width.  pad: by half the kernel, which keeps the size at stride 1.
    bias: of the convolution; batch norm takes it away again.  eps: of the batch norm.
    """

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(
        self,
        in_channels: int,
        out: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        pad: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if pad else 0
        self.conv = nn.Conv2d(in_channels, out, (high, wide), stride, padding, bias=bias)
        self.norm = nn.BatchNorm2d(out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the feature map."""
        return self.norm_relu(self.conv(x), self.norm)


class HalvingMaxPool(nn.Module):
    """Maximum over 3x3, stride 2, to the size of padded convolutions: `(N, C, H, W) -> (N, C, ceil(H/2), ceil(W/2))`.

    Along an even side it is the released network's pooling: no padding, rounded up. Along an odd side that would be one
    pixel smaller than the convolutions beside it, so Caffe could not join them; there it is padded by one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute the maxima."""
        return F.max_pool2d(x, 3, 2, (x.shape[-2] % 2, x.shape[-1] % 2), ceil_mode=True)


class Inception(nn.Module):
    """A module of BN-Inception: 1x1, 3x3, double 3x3 and pooling, joined in that order, then the unit.

    `(N, in_channels, H, W) -> (N, C, H, W)`, or half the size at stride 2. The layers have the names of the released
    prototxt, `inception_3a/double3x3_reduce`; "conv" is put before those that begin with a digit.

    one: width of the 1x1.  three: of the 3x3 and the 1x1 before it.  double: of the two 3x3 and the 1x1 before them.
    pool: "avg" (the padding counts) or "max".  proj: width of the 1x1 behind it.
    stride: at 2 there is neither the 1x1 nor `proj`: the pooled feature map is passed through.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        one: int,
        three: tuple[int, int],
        double: tuple[int, int, int],
        pool: str,
        proj: int,
        stride: int,
        conv_bias: bool,
        se: UnitConfig | None,
    ) -> None:
        super().__init__()

        def conv(channels: int, out: int, kernel: int, stride: int = 1) -> ConvNormReLU:
            return ConvNormReLU(channels, out, kernel, stride, bias=conv_bias)

        self.conv1x1 = conv(in_channels, one, 1) if one else None
        self.conv3x3_reduce = conv(in_channels, three[0], 1)
        self.conv3x3 = conv(*three, 3, stride)
        self.double3x3_reduce = conv(in_channels, double[0], 1)
        self.double3x3a = conv(*double[:2], 3)
        self.double3x3b = conv(*double[1:], 3, stride)
        pools = {"avg": nn.AvgPool2d(3, 1, 1), "max": nn.MaxPool2d(3, 1, 1)}
        self.pool = pools[pool] if stride == 1 else HalvingMaxPool()
        self.pool_proj = conv(in_channels, proj, 1) if proj else None
        self.se = se.build(one + three[-1] + double[-1] + (proj or in_channels)) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches and apply the unit."""
        one = () if self.conv1x1 is None else (self.conv1x1(x),)
        three = self.conv3x3(self.conv3x3_reduce(x))
        double = self.double3x3b(self.double3x3a(self.double3x3_reduce(x)))
        pool = self.pool(x)
        if self.pool_proj is not None:
            pool = self.pool_proj(pool)
        u = torch.cat((*one, three, double, pool), 1)
        return u if self.se is None else self.se(u)


class Mixed(nn.Module):
    """Branches, joined by their channels in their order, then the unit. `(N, in_channels, H, W) -> (N, out, h, w)`."""

    def __init__(self, branches: Iterable[nn.Module], out: int, se: UnitConfig | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.se = se.build(out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches and apply the unit."""
        u = torch.cat([branch(x) for branch in self.branches], 1)
        return u if self.se is None else self.se(u)


class ResidualInception(nn.Module):
    """A block of Inception-ResNet: `relu(x + scale * se(conv(mixed(x))))`. `(N, C, H, W) -> (N, C, H, W)`.

    mixed: the branches, with `width` channels in all; `conv` is a linear 1x1 with biases and without batch norm.
    scale: of the residual, arXiv:1602.07261 section 3.3; the unit is before it.  relu: False ends with the sum.
    """

    def __init__(
        self, channels: int, mixed: Mixed, width: int, *, scale: float, relu: bool, se: UnitConfig | None
    ) -> None:
        super().__init__()
        self.mixed = mixed
        self.conv = nn.Conv2d(width, channels, 1)
        self.se = se.build(channels) if se else None
        self.scale, self.relu = scale, relu

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        u = self.conv(self.mixed(x))
        if self.se is not None:
            u = self.se(u)
        y = x + self.scale * u
        return F.relu(y, inplace=True) if self.relu else y

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"scale={self.scale}, relu={self.relu}"
