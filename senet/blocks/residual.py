"""Residual blocks, basic and bottleneck (arXiv:1512.03385), and the six places a unit can take in them.

The SE block of arXiv:1709.01507v4 (Figure 3) is the "standard" place: on the residual branch, before the sum. The
others are Figure 5 and Table 14; they live here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig
from senet.errors import ConfigError

Shortcut = Literal["projection", "zero_pad"]


@dataclass(frozen=True, kw_only=True)
class ResidualSpec:
    """What one block is built from.

    in_channels, mid, out: channels before, inside and after the block.
    first: channels after a bottleneck's first 1x1; 0: `mid`.
    stride, groups: of its 3x3 convolution.  stride_on: which convolution of a bottleneck carries the stride.
    shortcut: where the shape changes, a convolution (option B) or zero channels and subsampling (option A).
    projection: kernel of that convolution where it has a stride; without one it is 1x1.
    """

    in_channels: int
    mid: int
    out: int
    first: int = 0
    stride: int = 1
    groups: int = 1
    stride_on: str = "1x1"
    shortcut: str = "projection"
    projection: str = "1x1"
    se: UnitConfig | None = None


class ZeroPad(nn.Module):
    """Option A of arXiv:1512.03385: every `stride`-th pixel, new channels zero.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`. As in the original, the old channels stay first.
    """

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = out - in_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """The subsampled and padded map."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"extra={self.extra}, stride={self.stride}"


class Projection(nn.Module):
    """Option B: convolution with the block's stride, batch norm. `(N, C, H, W) -> (N, out, H/stride, W/stride)`."""

    def __init__(self, in_channels: int, out: int, stride: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """The projected map."""
        return self.norm(self.conv(x))


def shortcut_of(spec: ResidualSpec) -> nn.Module:
    """Identity where the shape stays, else the chosen shortcut."""
    if spec.stride == 1 and spec.in_channels == spec.out:
        return nn.Identity()
    if spec.shortcut == "projection":
        kernel = 3 if spec.projection == "3x3" and spec.stride > 1 else 1
        return Projection(spec.in_channels, spec.out, spec.stride, kernel)
    if spec.out < spec.in_channels:
        raise ConfigError(f"shortcut: 'zero_pad' cannot go from {spec.in_channels} to {spec.out} channels")
    return ZeroPad(spec.in_channels, spec.out, spec.stride)


class ResidualBlock(nn.Module):
    """Abstract: `relu(norm(branch(x)) + shortcut(x))` with a unit at its place. `(N, C, H, W) -> (N, out, H/s, W/s)`.

    A final class gives the layers of the branch up to its last convolution; the end of the block is one call,
    `epilogue(x, norm, se, shortcut)`, so that a fused kernel replaces one attribute and no name changes.
    """

    norm: nn.BatchNorm2d
    epilogue = staticmethod(sf.block_epilogue)
    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, spec: ResidualSpec) -> None:
        super().__init__()
        self.shortcut = shortcut_of(spec)
        self.placement = spec.se.placement if spec.se else None
        if spec.se is None:
            self.se = None
        else:
            width = {"pre": spec.in_channels, "identity_before": spec.in_channels, "conv3x3": spec.mid}
            self.se = spec.se.build(width.get(spec.se.placement, spec.out))

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch up to its last convolution, whose batch norm belongs to the epilogue."""
        raise NotImplementedError

    @property
    def epilogue_unit(self) -> nn.Module | None:
        """The unit, if it is in the epilogue."""
        return self.se if self.placement == "standard" else None

    def gated(self, x: Tensor, place: str) -> Tensor:
        """`x` through the unit if this is the unit's place, else `x`."""
        return self.se(x) if self.se is not None and self.placement == place else x

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map."""
        shortcut = self.gated(self.shortcut(self.gated(x, "identity_before")), "identity")
        u = self.branch(self.gated(x, "pre"))
        y = self.epilogue(u, self.norm, self.epilogue_unit, shortcut)
        return self.gated(y, "post")


class Basic(ResidualBlock):
    """3x3 with the stride, 3x3. The place "conv3x3" would be ambiguous and raises ConfigError."""

    def __init__(self, spec: ResidualSpec) -> None:
        if spec.se is not None and spec.se.placement == "conv3x3":
            raise ConfigError(
                "placement: 'conv3x3' needs a bottleneck, whose branch has one 3x3; a basic block has two"
            )
        super().__init__(spec)
        self.conv1 = nn.Conv2d(spec.in_channels, spec.mid, 3, spec.stride, 1, groups=spec.groups, bias=False)
        self.norm1 = nn.BatchNorm2d(spec.mid)
        self.conv2 = nn.Conv2d(spec.mid, spec.out, 3, 1, 1, groups=spec.groups, bias=False)
        self.norm = nn.BatchNorm2d(spec.out)

    def branch(self, x: Tensor) -> Tensor:
        """3x3, batch norm, ReLU, 3x3."""
        return self.conv2(self.norm_relu(self.conv1(x), self.norm1))


class Bottleneck(ResidualBlock):
    """1x1, 3x3 (grouped in ResNeXt), 1x1; the stride in the first or the second, `spec.stride_on`.

    The released SE-ResNets stride in the first 1x1, the released SE-ResNeXts in the 3x3.
    """

    def __init__(self, spec: ResidualSpec) -> None:
        super().__init__(spec)
        first, second = (spec.stride, 1) if spec.stride_on == "1x1" else (1, spec.stride)
        width = spec.first or spec.mid
        self.conv1 = nn.Conv2d(spec.in_channels, width, 1, first, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, spec.mid, 3, second, 1, groups=spec.groups, bias=False)
        self.norm2 = nn.BatchNorm2d(spec.mid)
        self.conv3 = nn.Conv2d(spec.mid, spec.out, 1, bias=False)
        self.norm = nn.BatchNorm2d(spec.out)

    def branch(self, x: Tensor) -> Tensor:
        """1x1, batch norm, ReLU, 3x3, batch norm, ReLU, 1x1."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        x = self.norm_relu(self.conv2(x), self.norm2)
        return self.conv3(self.gated(x, "conv3x3"))
