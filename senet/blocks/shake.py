"""Blocks of two residual branches that are mixed at random in training: Shake-Shake, arXiv:1705.07485.

The unit's places: at the end of each branch ("each_branch"), or once on the mixture ("mixed"); both before the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import functional as sf
from senet.blocks.residual import Projection
from senet.config import UnitConfig


@dataclass(frozen=True, kw_only=True)
class ShakeSpec:
    """What one block is built from.

    in_channels, mid, out: channels before, inside and after the block.
    stride: of a branch's first 3x3 convolution.  groups: of a bottleneck's 3x3.
    shake: the gradients' weights, drawn again ("shake") or one half ("even").
    se_at: the unit's place, "each_branch" or "mixed".
    """

    in_channels: int
    mid: int
    out: int
    stride: int = 1
    groups: int = 1
    shake: str = "shake"
    se: UnitConfig | None = None
    se_at: str = "each_branch"


def mix(u1: Tensor, u2: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """`a u1 + (1 - a) u2` with a = `forward`, whose gradients are those of a = `backward`.

    `(N, C, H, W), (N, C, H, W), (N, 1, 1, 1), (N, 1, 1, 1) -> (N, C, H, W)`; section 2 of arXiv:1705.07485.
    """
    y = torch.lerp(u2, u1, backward)
    return y + (torch.lerp(u2, u1, forward) - y).detach()


class BasicBranch(nn.Module):
    """3x3 with the stride, 3x3, the unit. `(N, C, H, W) -> (N, out, H/stride, W/stride)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, spec: ShakeSpec, se: UnitConfig | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, spec.mid, 3, spec.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(spec.mid)
        self.conv2 = nn.Conv2d(spec.mid, spec.out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(spec.out)
        self.se = se.build(spec.out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """The branch's output map."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        u = self.norm2(self.conv2(x))
        return u if self.se is None else self.se(u)


class BottleneckBranch(nn.Module):
    """1x1, grouped 3x3 with the stride, 1x1, the unit. `(N, C, H, W) -> (N, out, H/stride, W/stride)`."""

    norm_relu = staticmethod(sf.norm_relu)

    def __init__(self, spec: ShakeSpec, se: UnitConfig | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(spec.in_channels, spec.mid, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(spec.mid)
        self.conv2 = nn.Conv2d(spec.mid, spec.mid, 3, spec.stride, 1, groups=spec.groups, bias=False)
        self.norm2 = nn.BatchNorm2d(spec.mid)
        self.conv3 = nn.Conv2d(spec.mid, spec.out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(spec.out)
        self.se = se.build(spec.out) if se else None

    def forward(self, x: Tensor) -> Tensor:
        """The branch's output map."""
        x = self.norm_relu(self.conv1(x), self.norm1)
        x = self.norm_relu(self.conv2(x), self.norm2)
        u = self.norm3(self.conv3(x))
        return u if self.se is None else self.se(u)


class TwoPaths(nn.Module):
    """Shake-Shake's shortcut: 1x1 convolutions of two subsamplings, one shifted by a pixel; joined, then batch norm.

    `(N, C, H, W) -> (N, out, H/stride, W/stride)`. The shift is right and down, and zeros come in, as in the original.
    """

    def __init__(self, in_channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.conv2 = nn.Conv2d(in_channels, out // 2, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """The joined map."""
        shifted = F.pad(x, (1, -1, 1, -1))
        return self.norm(torch.cat([self.conv1(x), self.conv2(shifted)], 1))


class ShakeBlock(nn.Module):
    """Abstract: two branches, mixed, plus a shortcut. `(N, C, H, W) -> (N, out, H/stride, W/stride)`.

    In training each image has its own mixing weight, uniform in 0 to 1 and from torch's global random state on the
    map's device; in evaluation it is one half and nothing is drawn.
    """

    def __init__(self, spec: ShakeSpec, branch: type[BasicBranch] | type[BottleneckBranch]) -> None:
        super().__init__()
        is_mixed = spec.se_at == "mixed"
        self.branch1 = branch(spec, None if is_mixed else spec.se)
        self.branch2 = branch(spec, None if is_mixed else spec.se)
        self.se = spec.se.build(spec.out) if spec.se and is_mixed else None
        self.changes_shape = spec.stride > 1 or spec.in_channels != spec.out
        self.shake = spec.shake

    def mixture(self, x: Tensor) -> Tensor:
        """Both branches and the unit that follows them."""
        u1, u2 = self.branch1(x), self.branch2(x)
        if self.training:
            forward = torch.rand(len(x), 1, 1, 1, device=u1.device, dtype=u1.dtype)
            backward = torch.rand_like(forward) if self.shake == "shake" else torch.full_like(forward, 0.5)
            u = mix(u1, u2, forward, backward)
        else:
            u = (u1 + u2) / 2
        return u if self.se is None else self.se(u)

    def extra_repr(self) -> str:
        """The choice, as print shows it."""
        return f"shake={self.shake!r}"


class ShakeBasic(ShakeBlock):
    """ReLU first, and none after the sum; where the shape changes, the shortcut begins after that ReLU too."""

    def __init__(self, spec: ShakeSpec) -> None:
        super().__init__(spec, BasicBranch)
        self.shortcut = TwoPaths(spec.in_channels, spec.out, spec.stride) if self.changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map."""
        a = F.relu(x)
        return self.mixture(a) + self.shortcut(a if self.changes_shape else x)


class ShakeBottleneck(ShakeBlock):
    """ReLU after the sum; where the shape changes, the shortcut is a 1x1 convolution and batch norm."""

    def __init__(self, spec: ShakeSpec) -> None:
        super().__init__(spec, BottleneckBranch)
        self.shortcut = Projection(spec.in_channels, spec.out, spec.stride) if self.changes_shape else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output map."""
        return F.relu(self.mixture(x) + self.shortcut(x), inplace=True)
