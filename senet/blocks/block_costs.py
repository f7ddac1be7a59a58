"""What each block costs: one function per block, which takes the block's own arguments. Loads no torch.

A function counts in the order of the block's forward pass and turns the shape of the input into that of the output.
"""

from __future__ import annotations

from senet.blocks.cost import Cost, Shape
from senet.blocks.places import at_place
from senet.config import UnitConfig


def _placed_unit(cost: Cost, se: UnitConfig | None, block: str, *, before: Shape, inside: Shape, after: Shape) -> Shape:
    """Count the unit of a residual block where it sits; return the block's output."""
    if se:
        cost.unit(se, at_place(se, block, before=before, inside=inside, after=after))
    return after


def _residual_shortcut(cost: Cost, x: Shape, out: int, stride: int, shortcut: str, projection: str) -> None:
    if shortcut == "projection" and (stride > 1 or x.channels != out):
        cost.conv_norm(x, out, 3 if projection == "3x3" and stride > 1 else 1, stride)


def basic(
    cost: Cost,
    x: Shape,
    *,
    mid: int,
    out: int,
    stride: int,
    groups: int,
    shortcut: str,
    projection: str,
    se: UnitConfig | None,
) -> Shape:
    """Count a `blocks.residual.Basic`."""
    _residual_shortcut(cost, x, out, stride, shortcut, projection)
    u = cost.conv_norm(x, mid, 3, stride, groups=groups)
    y = cost.conv_norm(u, out, 3, groups=groups)
    return _placed_unit(cost, se, "basic", before=x, inside=u, after=y)


def bottleneck(
    cost: Cost,
    x: Shape,
    *,
    first: int,
    mid: int,
    out: int,
    stride: int,
    stride_on: str,
    groups: int,
    shortcut: str,
    projection: str,
    se: UnitConfig | None,
) -> Shape:
    """Count a `blocks.residual.Bottleneck`."""
    _residual_shortcut(cost, x, out, stride, shortcut, projection)
    u = cost.conv_norm(x, first, 1, stride if stride_on == "1x1" else 1)
    u = cost.conv_norm(u, mid, 3, stride if stride_on == "3x3" else 1, groups=groups)
    y = cost.conv_norm(u, out, 1)
    return _placed_unit(cost, se, "bottleneck", before=x, inside=u, after=y)


def _preact_shortcut(cost: Cost, x: Shape, out: int, stride: int, shortcut: str) -> None:
    if shortcut == "projection" and (stride > 1 or x.channels != out):
        cost.conv(x, out, 1, stride)


def preact_basic(
    cost: Cost, x: Shape, *, mid: int, out: int, stride: int, shortcut: str, is_first: bool, se: UnitConfig | None
) -> Shape:
    """Count a `blocks.preact.PreActBasic`."""
    cost.norm(x)
    _preact_shortcut(cost, x, out, stride, shortcut)
    u = cost.conv_norm(x, mid, 3, stride)
    y = cost.conv(u, out, 3)
    return _placed_unit(cost, se, "basic", before=x, inside=u, after=y)


def preact_bottleneck(
    cost: Cost, x: Shape, *, mid: int, out: int, stride: int, shortcut: str, is_first: bool, se: UnitConfig | None
) -> Shape:
    """Count a `blocks.preact.PreActBottleneck`."""
    cost.norm(x)
    _preact_shortcut(cost, x, out, stride, shortcut)
    u = cost.conv_norm(cost.conv_norm(x, mid, 1, stride), mid, 3)
    y = cost.conv(u, out, 1)
    return _placed_unit(cost, se, "bottleneck", before=x, inside=u, after=y)


def shake_basic(
    cost: Cost, x: Shape, *, mid: int, out: int, stride: int, shake: str, se: UnitConfig | None, se_at: str
) -> Shape:
    """Count a `blocks.shake.ShakeBasic`."""
    if stride > 1 or x.channels != out:
        half = cost.conv(x, out // 2, 1, stride)
        cost.conv(x, out // 2, 1, stride)
        cost.norm(half._replace(channels=out))
    for _branch in range(2):
        y = cost.conv_norm(cost.conv_norm(x, mid, 3, stride), out, 3)
        if se_at == "each_branch":
            cost.unit(se, y)
    return cost.unit(se, y) if se_at == "mixed" else y


def shake_bottleneck(
    cost: Cost, x: Shape, *, mid: int, out: int, stride: int, groups: int, shake: str, se: UnitConfig | None, se_at: str
) -> Shape:
    """Count a `blocks.shake.ShakeBottleneck`."""
    if stride > 1 or x.channels != out:
        cost.conv_norm(x, out, 1, stride)
    for _branch in range(2):
        u = cost.conv_norm(cost.conv_norm(x, mid, 1), mid, 3, stride, groups=groups)
        y = cost.conv_norm(u, out, 1)
        if se_at == "each_branch":
            cost.unit(se, y)
    return cost.unit(se, y) if se_at == "mixed" else y


def vgg(cost: Cost, x: Shape, *, out: int, bias: bool, se: UnitConfig | None) -> Shape:
    """Count a `blocks.vgg.VGGBlock`."""
    return cost.unit(se, cost.conv_norm(x, out, 3, bias=bias))


def separable(cost: Cost, x: Shape, *, out: int, stride: int, se: UnitConfig | None, se_at: str) -> Shape:
    """Count a `blocks.mobile.Separable`."""
    u = cost.conv_norm(x, x.channels, 3, stride, groups=x.channels)
    y = cost.conv_norm(u, out, 1)
    cost.unit(se, u if se_at == "depthwise" else y)
    return y


def shuffle_unit(
    cost: Cost, x: Shape, *, out: int, stride: int, groups: int, first_groups: int, se: UnitConfig | None, se_at: str
) -> Shape:
    """Count a `blocks.mobile.ShuffleUnit`."""
    mid, branch = out // 4, out if stride == 1 else out - x.channels
    u = cost.conv_norm(x, mid, 1, groups=first_groups)
    u = cost.conv_norm(u, mid, 3, stride, groups=mid)
    u = cost.conv_norm(u, branch, 1, groups=groups)
    y = u._replace(channels=out)
    cost.unit(se, u if se_at == "branch" else y)
    return y


def inception(
    cost: Cost,
    x: Shape,
    *,
    one: int,
    three: tuple[int, int],
    double: tuple[int, int, int],
    pool: str,
    proj: int,
    stride: int,
    conv_bias: bool,
    se: UnitConfig | None,
) -> Shape:
    """Count a `blocks.inception.Inception`."""
    if one:
        cost.conv_norm(x, one, 1, bias=conv_bias)
    u = cost.conv_norm(x, three[0], 1, bias=conv_bias)
    cost.conv_norm(u, three[1], 3, stride, bias=conv_bias)
    u = cost.conv_norm(x, double[0], 1, bias=conv_bias)
    u = cost.conv_norm(u, double[1], 3, bias=conv_bias)
    u = cost.conv_norm(u, double[2], 3, stride, bias=conv_bias)
    if proj:
        cost.conv_norm(x, proj, 1, bias=conv_bias)
    y = u._replace(channels=one + three[1] + double[2] + (proj or x.channels))
    return cost.unit(se, y)
