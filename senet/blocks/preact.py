"""Pre-activation blocks, basic and bottleneck (arXiv:1603.05027, arXiv:1605.07146), and the places of a unit in them.

Batch norm and ReLU come before each convolution, so the branch and the sum end bare. Figure 5's places become:

standard         after the branch's last convolution, before the sum
pre              on the input of the branch's first convolution, after its batch norm and ReLU
post             after the sum
identity         on the shortcut, after its projection or padding if there is one
identity_before  on the shortcut, before it
conv3x3          after the batch norm and ReLU that follow the 3x3 (bottlenecks only)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.residual import ZeroPad
from senet.config import UnitConfig
from senet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PreActSpec:
    """What one block is built from.

    in_channels, mid, out: channels before, inside and after the block.  stride: of its first convolution.
    shortcut: where the shape changes, a 1x1 convolution without batch norm or zero channels (option A).
    is_first: the network's first unit, which follows a bare convolution.
    """

    in_channels: int
    mid: int
    out: int
    stride: int = 1
    shortcut: str = "projection"
    is_first: bool = False
    se: UnitConfig | None = None


class PreActBlock(nn.Module):
    """Abstract: `branch(a) + shortcut` with `a = relu(norm1(x))`. `(N, C, H, W) -> (N, out, H/stride, W/stride)`.

    The shortcut is `x` itself; but in the network's first unit (arXiv:1603.05027, appendix) and where the shape changes
    (as in KaimingHe/resnet-1k-layers) it begins at `a` too. A final class gives the branch.
    """

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, spec: PreActSpec) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(spec.in_channels)
        changes_shape = spec.stride > 1 or spec.in_channels != spec.out
        self.shares_activation = changes_shape or spec.is_first
        if not changes_shape:
            self.shortcut = nn.Identity()
        elif spec.shortcut == "projection":
            self.shortcut = nn.Conv2d(spec.in_channels, spec.out, 1, spec.stride, bias=False)
        else:
            self.shortcut = ZeroPad(spec.in_channels, spec.out, spec.stride)
        self.placement = spec.se.placement if spec.se else None
        width = {"pre": spec.in_channels, "identity_before": spec.in_channels, "conv3x3": spec.mid}
        self.se = spec.se.build(width.get(spec.se.placement, spec.out)) if spec.se else None

    def branch(self, a: Tensor) -> Tensor:
        """The residual branch from its first convolution to its last."""
        raise NotImplementedError

    def gated(self, x: Tensor, place: str) -> Tensor:
        """`x` through the unit if this is the unit's place, else `x`."""
        return self.se(x) if self.se is not None and self.placement == place else x

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map."""
        a = self.norm_relu(x, self.norm1)
        shortcut = self.shortcut(self.gated(a if self.shares_activation else x, "identity_before"))
        u = self.branch(self.gated(a, "pre"))
        return self.gated(self.gated(u, "standard") + self.gated(shortcut, "identity"), "post")


class PreActBasic(PreActBlock):
    """3x3 with the stride, 3x3. The place "conv3x3" would be ambiguous and raises ConfigError."""

    def __init__(self, spec: PreActSpec) -> None:
        if spec.se is not None and spec.se.placement == "conv3x3":
            raise ConfigError(
                "placement: 'conv3x3' needs a bottleneck, whose branch has one 3x3; a basic block has two"
            )
        super().__init__(spec)
        self.conv1 = nn.Conv2d(spec.in_channels, spec.mid, 3, spec.stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(spec.mid)
        self.conv2 = nn.Conv2d(spec.mid, spec.out, 3, 1, 1, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        """3x3, batch norm, ReLU, 3x3."""
        return self.conv2(self.norm_relu(self.conv1(a), self.norm2))


class PreActBottleneck(PreActBlock):
    """1x1 with the stride, 3x3, 1x1."""

    def __init__(self, spec: PreActSpec) -> None:
        super().__init__(spec)
        self.conv1 = nn.Conv2d(spec.in_channels, spec.mid, 1, spec.stride, bias=False)
        self.norm2 = nn.BatchNorm2d(spec.mid)
        self.conv2 = nn.Conv2d(spec.mid, spec.mid, 3, 1, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(spec.mid)
        self.conv3 = nn.Conv2d(spec.mid, spec.out, 1, bias=False)

    def branch(self, a: Tensor) -> Tensor:
        """1x1, batch norm, ReLU, 3x3, batch norm, ReLU, 1x1."""
        a = self.norm_relu(self.conv1(a), self.norm2)
        a = self.norm_relu(self.conv2(a), self.norm3)
        return self.conv3(self.gated(a, "conv3x3"))
