"""Pre-activation blocks, basic and bottleneck (arXiv:1603.05027, arXiv:1605.07146), and the places of a unit in them.

Batch norm and ReLU come before each convolution, so neither follows the branch or the sum. Figure 5's places become:

standard         after the branch's last convolution, before the sum
pre              on the input of the branch's first convolution, after its batch norm and ReLU
post             after the sum
identity         on the shortcut, after its projection or padding if there is one
identity_before  on the shortcut, before it
conv3x3          after the batch norm and ReLU that follow the 3x3 (bottlenecks only)
"""

from __future__ import annotations

from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.residual import PlacedUnit, ZeroPad
from senet.config import UnitConfig


class PreActBlock(PlacedUnit):
    """Abstract: `branch(a) + shortcut` with `a = relu(norm1(x))`. `(N, C, H, W) -> (N, out, H/stride, W/stride)`.

    The shortcut starts at `x`. In the network's first block (arXiv:1603.05027, appendix) and where the shape changes
    (as in KaimingHe/resnet-1k-layers) it starts at `a`. A final class gives the branch.

    Args:
        in_channels: Channels of the input.
        block: "basic" or "bottleneck".
        mid: Channels inside the branch.
        out: Channels of the output.
        stride: Stride of the first convolution.
        shortcut: Where the shape changes: "projection", a 1x1 convolution without batch norm, or "zero_pad" or
            "zero_pad_both" (option A, see `ZeroPad`).
        is_first: Whether this is the network's first block, whose input has no batch norm and ReLU.
        se: The unit, or None.
    """

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
        is_first: bool,
        se: UnitConfig | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        changes_shape = stride > 1 or in_channels != out
        self.shares_activation = changes_shape or is_first
        if not changes_shape:
            self.shortcut = nn.Identity()
        elif shortcut == "projection":
            self.shortcut = nn.Conv2d(in_channels, out, 1, stride, bias=False)
        else:
            self.shortcut = ZeroPad(in_channels, out, stride, both_sides=shortcut == "zero_pad_both")
        self.add_unit(se, block, in_channels=in_channels, mid=mid, out=out)

    def branch(self, a: Tensor) -> Tensor:
        """Compute the residual branch from its first convolution to its last."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        a = self.norm_relu(x, self.norm1)
        shortcut = self.shortcut(self.gated(a if self.shares_activation else x, "identity_before"))
        u = self.branch(self.gated(a, "pre"))
        return self.gated(self.gated(u, "standard") + self.gated(shortcut, "identity"), "post")


class PreActBasic(PreActBlock):
    """Pre-activation block of two 3x3 convolutions; the arguments are those of `PreActBlock`.

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
        shortcut: str = "projection",
        is_first: bool = False,
        se: UnitConfig | None = None,
    ) -> None:
        super().__init__(
            in_channels, "basic", mid=mid, out=out, stride=stride, shortcut=shortcut, is_first=is_first, se=se
        )
        self.conv1 = nn.Conv2d(in_channels, mid, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, out, 3, 1, 1, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        """Apply 3x3, batch norm, ReLU, 3x3."""
        return self.conv2(self.norm_relu(self.conv1(a), self.norm2))


class PreActBottleneck(PreActBlock):
    """Pre-activation block of a 1x1, a 3x3 and a 1x1 convolution; the arguments are those of `PreActBlock`."""

    def __init__(
        self,
        in_channels: int,
        *,
        mid: int,
        out: int,
        stride: int = 1,
        shortcut: str = "projection",
        is_first: bool = False,
        se: UnitConfig | None = None,
    ) -> None:
        super().__init__(
            in_channels, "bottleneck", mid=mid, out=out, stride=stride, shortcut=shortcut, is_first=is_first, se=se
        )
        self.conv1 = nn.Conv2d(in_channels, mid, 1, stride, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, 1, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, out, 1, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        """Apply 1x1, batch norm, ReLU, 3x3, batch norm, ReLU, 1x1."""
        a = self.norm_relu(self.conv1(a), self.norm2)
        a = self.norm_relu(self.conv2(a), self.norm3)
        return self.conv3(self.gated(a, "conv3x3"))
