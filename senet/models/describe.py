"""Parameters and multiply-adds of a network, in all and by stage, as Tables 1 and 2 of arXiv:1709.01507v4 count them.

Multiply-adds are those of convolutions and fully connected layers, including the SE units'. Batch norm, pooling, sums
and the channel scaling are not counted. Everything is computed from the table, without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from senet.blocks.cost import Cost, Shape, TooSmallError
from senet.errors import ConfigError
from senet.models.detector import DetectorNet
from senet.models.net import Net

if TYPE_CHECKING:
    from senet.models.network import Network


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of a network.

    Attributes:
        part: Name: "stem", "stage2", ..., "head".
        layers: Its layers in the notation of Table 1.
        channels: Channels of its output.
        height: Height of its output.
        width: Width of its output.
        params: Parameters.
        macs: Multiply-adds of one image.
        se_params: Parameters in the attention units.
        se_macs: Multiply-adds in the attention units.
    """

    part: str
    layers: str
    channels: int
    height: int
    width: int
    params: int
    macs: int
    se_params: int
    se_macs: int

    @classmethod
    def of(cls, part: str, layers: str, shape: Shape, cost: Cost) -> Row:
        """Make the row of a part from the shape of its output and its cost."""
        return cls(
            part=part,
            layers=layers,
            channels=shape.channels,
            height=shape.height,
            width=shape.width,
            params=cost.params,
            macs=cost.macs,
            se_params=cost.se_params,
            se_macs=cost.se_macs,
        )


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a network costs.

    Attributes:
        image_size: Height and width in pixels.
        params: Learnable parameters.
        params_se_bias_true: Parameters with biases in the SE layers; `params` if the unit has no such choice.
        params_se_bias_false: Parameters without biases in the SE layers; `params` if the unit has no such choice.
        params_without_se: Parameters of the plain twin.
        macs: Multiply-adds of one image.
        macs_without_se: Multiply-adds of the plain twin.
        bn_statistics: Running means and variances of batch norms, which are not parameters.
        rows: The parts.
    """

    image_size: tuple[int, int]
    params: int
    params_se_bias_true: int
    params_se_bias_false: int
    params_without_se: int
    macs: int
    macs_without_se: int
    bn_statistics: int
    rows: tuple[Row, ...]

    @property
    def se_share_params(self) -> float:
        """Share of the parameters that is in the SE units, from 0 to 1."""
        return 1 - self.params_without_se / self.params

    @property
    def se_share_macs(self) -> float:
        """Share of the multiply-adds that is in the SE units, from 0 to 1."""
        return 1 - self.macs_without_se / self.macs


def describe(model: Net | Network, image_size: int | tuple[int, int] | None = None) -> Description:
    """Count a network's parameters and multiply-adds.

    Args:
        model: A table, or a network built from one.
        image_size: Pixels: a side, or height and width; of a detector the shorter side. None for the size the network
            was designed for.

    Raises:
        ConfigError: If the image is too small for the network, or if the network differs from its table, for example
            after units were inserted.

    >>> from senet import get_net
    >>> describe(get_net("se_resnet50")).macs
    3860488192
    """
    net = model if isinstance(model, Net) else model.net
    size = image_size if image_size is not None else net.image_size
    height, width = net.sides(size) if isinstance(size, int) else size
    rows, total = _count(net, height, width)
    actual = total.params if isinstance(model, Net) else sum(p.numel() for p in model.parameters())
    if actual != total.params:
        raise ConfigError(
            f"model: has {actual:,} parameters and its table {total.params:,}; describe it before units are "
            "inserted (insert_ with dry_run=True says what they cost)"
        )
    _, plain = _count(replace(net, se=None), height, width)

    def params_with_bias(bias: bool) -> int:
        if getattr(net.se, "bias", bias) == bias:
            return total.params
        other = replace(net, se=replace(net.se, bias=bias))  # type: ignore[type-var, call-arg]
        return _count(other, height, width)[1].params

    return Description(
        image_size=(height, width),
        params=total.params,
        params_se_bias_true=params_with_bias(True),
        params_se_bias_false=params_with_bias(False),
        params_without_se=plain.params,
        macs=total.macs,
        macs_without_se=plain.macs,
        bn_statistics=total.bn_statistics,
        rows=rows,
    )


def _count(net: Net, height: int, width: int) -> tuple[tuple[Row, ...], Cost]:
    """The rows of a network and the cost of all of it."""
    if isinstance(net, DetectorNet):
        return _count_detector(net, height, width)
    rows, shapes, total = _count_parts(net, net.parts, height, width)
    x, cost = shapes[-1], Cost()
    net.count_head(x, cost)
    if net.num_classes:
        cost.linear(net.num_features, net.num_classes)
    layers = net.layers("head") + (f", fc {net.num_classes}" if net.num_classes else "")
    rows.append(Row.of("head", layers, Shape(net.num_classes or net.num_features, 1, 1), cost))
    return tuple(rows), total + cost


def _count_parts(net: Net, parts: Sequence[str], height: int, width: int) -> tuple[list[Row], list[Shape], Cost]:
    """The rows of some first parts, the shapes of their outputs, and the cost of all of them."""
    x, total, rows, shapes = Shape(net.in_channels, height, width), Cost(), [], []
    for part in parts:
        cost = Cost()
        try:
            x = net.count(part, x, cost)
        except TooSmallError as error:
            raise ConfigError(f"image_size: {height}x{width} is too small for this network: {error}") from None
        rows.append(Row.of(part, net.layers(part), x, cost))
        shapes.append(x)
        total += cost
    return rows, shapes, total


def _count_detector(net: DetectorNet, height: int, width: int) -> tuple[tuple[Row, ...], Cost]:
    # The trunk ends with its last stage.
    parts = [part for part in net.whole_trunk.parts if part != "last"]
    rows, shapes, total = _count_parts(net.whole_trunk, parts, height, width)
    for part, layers, shape, cost in net.head_parts(shapes[-net.levels :]):
        rows.append(Row.of(part, layers, shape, cost))
        total += cost
    return tuple(rows), total
