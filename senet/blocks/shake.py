"""Blocks of two residual branches that are mixed at random in training: Shake-Shake, arXiv:1705.07485.

The unit's places: at the end of each branch ("each_branch"), or once on the mixture ("mixed"); both before the sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.residual import Projection
from senet.config import UnitConfig


def mix(u1: Tensor, u2: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Mix two branches: `a u1 + (1 - a) u2` with a = `forward` in the values and a = `backward` in the gradients.

    `(N, C, H, W), (N, C, H, W), (N, 1, 1, 1), (N, 1, 1, 1) -> (N, C, H, W)`; section 2 of arXiv:1705.07485.
    """
    y = torch.lerp(u2, u1, backward)
    return y + (torch.lerp(u2, u1, forward) - y).detach()


class BasicBranch(nn.Module):
    """Branch of two 3x3 convolutions and the unit. `(N, C, H, W) -> (N, out, H/stride, W/stride)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, in_channels: int, *, mid: int, out: int, stride: int, se: UnitConfig | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.se = se.build(out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the branch's output."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        u = self.norm2(self.conv2(x))
        return u if self.se is None else self.se(u)


class BottleneckBranch(nn.Module):
    """Branch of a 1x1, a grouped 3x3 with the stride, a 1x1 and the unit. `(N, C, H, W) -> (N, out, H/s, W/s)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(
        self, in_channels: int, *, mid: int, out: int, stride: int, groups: int, se: UnitConfig | None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, mid, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv3 = nn.Conv2d(mid, out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out)
        self.se = se.build(out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """Compute the branch's output."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        x = self.norm_relu(self.conv2(x), self.norm2)
        u = self.norm3(self.conv3(x))
        return u if self.se is None else self.se(u)


class TwoPaths(nn.Module):
    """Shake-Shake's shortcut: 1x1 convolutions of two subsamplings, one shifted by a pixel; joined, then batch norm.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`. As in the original, the shift is right and down and moves zeros in.
    """

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Compute both paths and join them."""
        shifted = F.pad(x, (1, -1, 1, -1))
        return self.norm(torch.cat([self.conv1(x), self.conv2(shifted)], 1))


class ShakeBlock(nn.Module):
    """Abstract: two branches, mixed, plus a shortcut. `(N, C, H, W) -> (N, out, H/stride, W/stride)`.

    In training each image has its own mixing weight, uniform in 0 to 1, from torch's global random state on the
    feature map's device. In evaluation the weight is one half.

    Args:
        branches: The two branches. They have the unit if it sits on each of them.
        out: Channels of the output.
        shake: Mixing weights of the gradients in training: drawn again ("shake") or one half ("even").
        se: The unit on the mixture, or None.
    """

    def __init__(self, branches: tuple[nn.Module, nn.Module], *, out: int, shake: str, se: UnitConfig | None) -> None:
        super().__init__()
        self.branch1, self.branch2 = branches
        self.se = se.build(out) if se else None
        self.shake = shake

    def mixture(self, x: Tensor) -> Tensor:
        """Mix both branches; apply the unit that follows them."""
        u1, u2 = self.branch1(x), self.branch2(x)
        if self.training:
            # Not `len(x)`, which `torch.fx` cannot trace.
            forward = torch.rand_like(u1[:, :1, :1, :1])
            backward = torch.rand_like(forward) if self.shake == "shake" else torch.full_like(forward, 0.5)
            u = mix(u1, u2, forward, backward)
        else:
            u = (u1 + u2) / 2
        return u if self.se is None else self.se(u)

    def extra_repr(self) -> str:
        """Return the settings that print shows."""
        return f"shake={self.shake!r}"


class ShakeBasic(ShakeBlock):
    """Two branches of two 3x3 convolutions, with a ReLU before them and none after the sum.

    Where the shape changes, the shortcut starts after that ReLU too.

    Args:
        in_channels: Channels of the input.
        mid: Channels inside a branch.
        out: Channels of the output.
        stride: Stride of a branch's first convolution.
        shake: See `ShakeBlock`.
        se: The unit, or None.
        se_at: Its place: "each_branch" or "mixed", once on the mixture.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mid: int,
        out: int,
        stride: int = 1,
        shake: str = "shake",
        se: UnitConfig | None = None,
        se_at: str = "each_branch",
    ) -> None:
        inner, mixed = (None, se) if se_at == "mixed" else (se, None)

        def branch() -> BasicBranch:
            return BasicBranch(in_channels, mid=mid, out=out, stride=stride, se=inner)

        super().__init__((branch(), branch()), out=out, shake=shake, se=mixed)
        self.changes_shape = stride > 1 or in_channels != out
        self.shortcut = TwoPaths(in_channels, out, stride) if self.changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        a = F.relu(x)
        return self.mixture(a) + self.shortcut(a if self.changes_shape else x)


class ShakeBottleneck(ShakeBlock):
    """Two bottleneck branches with a ReLU after the sum; a projection where the shape changes.

    The arguments are those of `ShakeBasic`, and `groups` of the 3x3 convolutions, which have the stride.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mid: int,
        out: int,
        stride: int = 1,
        groups: int = 1,
        shake: str = "shake",
        se: UnitConfig | None = None,
        se_at: str = "each_branch",
    ) -> None:
        inner, mixed = (None, se) if se_at == "mixed" else (se, None)

        def branch() -> BottleneckBranch:
            return BottleneckBranch(in_channels, mid=mid, out=out, stride=stride, groups=groups, se=inner)

        super().__init__((branch(), branch()), out=out, shake=shake, se=mixed)
        changes_shape = stride > 1 or in_channels != out
        self.shortcut = Projection(in_channels, out, stride) if changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        return F.relu(self.mixture(x) + self.shortcut(x), inplace=True)
