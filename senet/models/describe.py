"""Parameters and multiply-adds of a network, in all and by stage, as Table 1 and Table 2 of arXiv:1709.01507v4 count.

Multiply-adds are those of convolutions and fully connected layers, the SE units' included (`torch.utils.flop_counter`
over two); batch norm, pooling, sums and the channel scaling are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from senet.errors import ConfigError
from senet.models.net import Net
from senet.models.network import Network
from senet.units.unit import Unit


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part of a network: its name, what it is, the size of its output map, its parameters and multiply-adds."""

    part: str
    layers: str
    channels: int
    height: int
    width: int
    params: int
    macs: int
    se_params: int
    se_macs: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a network costs.

    params: learnable parameters.  params_se_bias_true, params_se_bias_false: the same with and without biases in the
    SE layers; equal to `params` where the unit has no such choice.  params_without_se: of the plain twin.
    macs: multiply-adds of one image; macs_without_se: of the plain twin.
    bn_statistics: running means and variances, which are no parameters.
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
        """Part of the parameters that is in the SE units."""
        return 1 - self.params_without_se / self.params

    @property
    def se_share_macs(self) -> float:
        """Part of the multiply-adds that is in the SE units."""
        return 1 - self.macs_without_se / self.macs


def describe(model: Net | Network, image_size: int | tuple[int, int] | None = None) -> Description:
    """Count a network's parameters and multiply-adds on the meta device: no weights, no arithmetic.

    image_size: pixels (a side, or height and width); None: what the network was designed for.
    Raises ConfigError where the image is too small for the network, and for a network that is no longer what its table
    says, such as one with inserted units.

    >>> from senet import get_net
    >>> describe(get_net("se_resnet50")).macs
    3860488192
    """
    net = model if isinstance(model, Net) else model.net
    size = image_size if image_size is not None else net.image_size
    height, width = (size, size) if isinstance(size, int) else size
    network = _meta(net)
    if isinstance(model, Network) and _size(model) != _size(network):
        raise ConfigError(
            f"model: has {_size(model):,} parameters and its table {_size(network):,}; describe it before units are "
            "inserted (insert_ with dry_run=True says what they cost)"
        )
    rows = _count(network, height, width)
    plain = _count(_meta(replace(net, se=None)), height, width) if net.se else rows
    return Description(
        image_size=(height, width),
        params=_size(network),
        params_se_bias_true=_params_with_bias(network, True),
        params_se_bias_false=_params_with_bias(network, False),
        params_without_se=sum(r.params for r in plain),
        macs=sum(r.macs for r in rows),
        macs_without_se=sum(r.macs for r in plain),
        bn_statistics=sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)),
        rows=rows,
    )


def _meta(net: Net) -> Network:
    with torch.device("meta"):
        return Network(net).eval()


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        shapes[name] = tuple(out.shape)

    return hook


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _params_with_bias(network: Network, bias: bool) -> int:
    """The network's parameters if its unit had biases or not; as they are where the unit has no such choice."""
    net = network.net
    if net.se is None or getattr(net.se, "bias", bias) == bias:
        return _size(network)
    return _size(_meta(replace(net, se=replace(net.se, bias=bias))))  # type: ignore[call-arg]


def _count(network: Network, height: int, width: int) -> tuple[Row, ...]:
    net = network.net
    x = torch.empty(1, net.in_channels, height, width, device="meta")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in network.features.named_children():
        part.register_forward_hook(_note_shape(shapes, name))
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network(x)
    except RuntimeError as error:
        raise ConfigError(f"image_size: {height}x{width} is too small for this network: {error}") from None
    flops = counter.get_flop_counts()

    def macs(name: str) -> int:
        return sum(flops.get(f"Network.{name}", {}).values()) // 2

    rows = []
    for name, part in network.features.named_children():
        _, c, h, w = shapes[name]
        units = [(f"features.{name}.{n}", u) for n, u in part.named_modules() if isinstance(u, Unit)]
        rows.append(
            Row(
                part=name,
                layers=net.layers(name),
                channels=c,
                height=h,
                width=w,
                params=_size(part),
                macs=macs(f"features.{name}"),
                se_params=sum(_size(u) for _, u in units),
                se_macs=sum(macs(n) for n, _ in units),
            )
        )
    head = Row(
        part="head",
        layers=net.layers("head") + (f", fc {net.num_classes}" if net.num_classes else ""),
        channels=net.num_classes or network.num_features,
        height=1,
        width=1,
        params=_size(network.head) + _size(network.classifier),
        macs=macs("head") + macs("classifier"),
        se_params=0,
        se_macs=0,
    )
    return (*rows, head)
