"""Residual blocks, basic and bottleneck (arXiv:1512.03385), and the six places a unit can take in them.

The SE block of arXiv:1709.01507v4 (Figure 3) is the "standard" place: on the residual branch, before the sum. The
others are those of Figure 5 and Table 14.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.places import at_place
from senet.config import UnitConfig


class StemBlock(nn.Module):
    """Convolutions with batch norm and ReLU, then pooling: `(N, in_channels, H, W) -> (N, widths[-1], h, w)`.

    Args:
        in_channels: Channels of the images.
        widths: Filters of each convolution. The first has the stride.
        kernel: Side of the filters.
        stride: Stride of the first convolution.
        pool: 3x3 maximum with stride 2, "ceil" (no padding, rounded up) or "pad" (padding 1), or "none".
    """

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, in_channels: int, widths: tuple[int, ...], kernel: int, stride: int, pool: str) -> None:
        super().__init__()
        *before, last = widths
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, width in enumerate(before, start=1):
            layers[f"conv{i}"] = nn.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(width)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            in_channels, stride = width, 1
        self.before = nn.Sequential(layers)
        self.conv = nn.Conv2d(in_channels, last, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(last)
        self.pool = {
            "ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
            "pad": nn.MaxPool2d(3, 2, padding=1),
            "none": nn.Identity(),
        }[pool]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the first feature map."""
        return self.pool(self.norm_relu(self.conv(self.before(x)), self.norm))


class ZeroPad(nn.Module):
    """Shortcut of option A (arXiv:1512.03385): every `stride`-th pixel; the new channels are zero.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`. As in the original, the input's channels come first.

    Args:
        in_channels: Channels of the input.
        out: Channels of the output.
        stride: Distance of the pixels that are kept.
        both_sides: Put half of the zero channels (rounded down) before the input's, as many public CIFAR ResNets do.
    """

    def __init__(self, in_channels: int, out: int, stride: int, *, both_sides: bool = False) -> None:
        super().__init__()
        self.extra, self.stride = out - in_channels, stride
        self.before = self.extra // 2 if both_sides else 0

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad the feature map."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.extra - self.before))

    def extra_repr(self) -> str:
        """Return the settings that print shows."""
        return f"extra={self.extra}, stride={self.stride}" + f", before={self.before}" * bool(self.before)


class Projection(nn.Module):
    """Shortcut of option B: convolution and batch norm. `(N, C, H, W) -> (N, out, H/stride, W/stride)`."""

    def __init__(self, in_channels: int, out: int, stride: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Project the feature map."""
        return self.norm(self.conv(x))


class PlacedUnit(nn.Module):
    """Abstract: a block with a unit, or None, at one place. `senet.blocks.places` has the places."""

    se: nn.Module | None
    placement: str | None

    def add_unit(self, se: UnitConfig | None, block: str, *, in_channels: int, mid: int, out: int) -> None:
        """Build the unit for the channels at its place.

        Raises:
            ConfigError: If such a block does not have the place.
        """
        self.placement = se.placement if se else None
        self.se = se.build(at_place(se, block, before=in_channels, inside=mid, after=out)) if se else None

    def gated(self, x: Tensor, place: str) -> Tensor:
        """Apply the unit to `x` if it sits at `place`."""
        return self.se(x) if self.se is not None and self.placement == place else x


class ResidualBlock(PlacedUnit):
    """Abstract: `relu(norm(branch(x)) + shortcut(x))` with a unit at its place. `(N, C, H, W) -> (N, out, H/s, W/s)`.

    A final class gives the layers of the branch up to its last convolution. The end of the block is one call,
    `epilogue(x, norm, se, shortcut)`, so that a fused kernel replaces one attribute and no name changes.

    Args:
        in_channels: Channels of the input.
        block: "basic" or "bottleneck".
        mid: Channels inside the branch.
        out: Channels of the output.
        stride: Stride of the block.
        shortcut: Where the shape changes: "projection" (option B), "zero_pad" or "zero_pad_both" (option A; `ZeroPad`).
        projection: Kernel of a projection that has a stride, "1x1" or "3x3". Without a stride it is 1x1.
        se: The unit, or None.
    """

    norm: nn.BatchNorm2d
    epilogue = staticmethod(sf.block_epilogue)
    norm_relu = staticmethod(sf.norm_relu)

    def __init__(
        self,
        in_channels: int,
        block: str,
        *,
        mid: int,
        out: int,
        stride: int,
        shortcut: str,
        projection: str,
        se: UnitConfig | None,
    ) -> None:
        super().__init__()
        if stride == 1 and in_channels == out:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = Projection(in_channels, out, stride, 3 if projection == "3x3" and stride > 1 else 1)
        else:
            self.shortcut = ZeroPad(in_channels, out, stride, both_sides=shortcut == "zero_pad_both")
        self.add_unit(se, block, in_channels=in_channels, mid=mid, out=out)

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual branch up to its last convolution, whose batch norm belongs to the epilogue."""
        raise NotImplementedError

    @property
    def epilogue_unit(self) -> nn.Module | None:
        """The unit if it is in the epilogue, else None."""
        return self.se if self.placement == "standard" else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        shortcut = self.gated(self.shortcut(self.gated(x, "identity_before")), "identity")
        u = self.branch(self.gated(x, "pre"))
        y = self.epilogue(u, self.norm, self.epilogue_unit, shortcut)
        return self.gated(y, "post")


class Basic(ResidualBlock):
    """Residual block of two 3x3 convolutions; the first has the stride.

    The arguments are those of `ResidualBlock`, and `groups` of both convolutions.

    Raises:
        ConfigError: For the place "conv3x3", which would be ambiguous.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mid: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        shortcut: str = "projection",
        projection: str = "1x1",
        se: UnitConfig | None = None,
    ) -> None:
        super().__init__(
            in_channels, "basic", mid=mid, out=out, stride=stride, shortcut=shortcut, projection=projection, se=se
        )
        self.conv1 = nn.Conv2d(in_channels, mid, 3, stride, 1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, out, 3, 1, 1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def branch(self, x: Tensor) -> Tensor:
        """Apply 3x3, batch norm, ReLU, 3x3."""
        return self.conv2(self.norm_relu(self.conv1(x), self.norm1))


class Bottleneck(ResidualBlock):
    """Residual block of a 1x1, a 3x3 (grouped in ResNeXt) and a 1x1 convolution.

    The arguments are those of `ResidualBlock`, and three more.

    Args:
        first: Channels after the first 1x1; 0 for `mid`.
        groups: Groups of the 3x3.
        stride_on: The convolution that has the stride: "1x1", the first one, in the released SE-ResNets, "3x3" in the
            released SE-ResNeXts.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mid: int,
        out: int,
        first: int = 0,
        stride: int = 1,
        groups: int = 1,
        stride_on: str = "1x1",
        shortcut: str = "projection",
        projection: str = "1x1",
        se: UnitConfig | None = None,
    ) -> None:
        super().__init__(
            in_channels, "bottleneck", mid=mid, out=out, stride=stride, shortcut=shortcut, projection=projection, se=se
        )
        stride1, stride2 = (stride, 1) if stride_on == "1x1" else (1, stride)
        first = first or mid
        self.conv1 = nn.Conv2d(in_channels, first, 1, stride1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, mid, 3, stride2, 1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def branch(self, x: Tensor) -> Tensor:
        """Apply 1x1, batch norm, ReLU, 3x3, batch norm, ReLU, 1x1."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        x = self.norm_relu(self.conv2(x), self.norm2)
        return self.conv3(self.gated(x, "conv3x3"))
