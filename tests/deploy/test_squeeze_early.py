"""The squeeze before the expansion: where it is exact and pays, whoever's unit it is, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import ECAConfig, SEConfig, SharedConfig, UnitConfig
from senet.units.config import Gate
from tests.deploy.same import Each, Fn, same

UNITS: dict[str, UnitConfig] = {
    **{str(gate): SEConfig(reduction=4, gate=gate) for gate in Gate.__args__},
    "no bias": SEConfig(reduction=4, bias=False),
    "one hidden": SEConfig(reduction=100),
    "eca": ECAConfig(),
    "shared": SharedConfig(groups=4),
}


def conv(*sizes: int, dims: int = 2, **options: Any) -> Any:
    layer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return layer(*sizes, **options)


def test_every_unit_squeezes_early() -> None:
    units = {
        name: nn.Sequential(conv(4, 16, 1, bias=False), nn.BatchNorm2d(16), unit.build(16))
        for name, unit in UNITS.items()
    }
    rewrites = same(Each(units), 4, 5, 7).rewrites
    assert (rewrites.early, rewrites.skipped) == ([f"{name}.2" for name in UNITS], [])


@pytest.mark.parametrize(
    "expansion",
    [
        conv(4, 16, 1),
        conv(4, 16, 1, bias=False),
        conv(4, 16, 1, groups=2),
        conv(4, 16, 1, dims=1),
        conv(4, 16, 1, dims=3),
    ],
    ids=["bias", "no bias", "groups", "1-D", "3-D"],
)
def test_every_expansion(expansion: nn.Module) -> None:
    model = nn.Sequential(expansion, SEConfig(reduction=4).build(16))
    fast = same(model, 4, *(5, 7, 3)[: expansion.weight.dim() - 2])  # type: ignore[operator]
    assert fast.rewrites.early == ["1"]
    # The first layer is merged with the expansion: 16 channels to 4 become 4 to 4.
    merged = next(v for k, v in fast.module.named_buffers() if "fc1_weight" in k)
    assert merged.shape == (4, 4)


def official_eca(m: Any, x: Tensor) -> Tensor:
    u = m.c(x)
    y = m.k(F.adaptive_avg_pool2d(u, 1).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
    return u * y.sigmoid().expand_as(u)


def with_views(m: Any, x: Tensor) -> Tensor:
    u = m.c(x)
    n, c, *_ = u.size()
    y = m.b(m.a(F.adaptive_avg_pool2d(u, 1).view(n, c)).relu()).sigmoid().view(n, c, 1, 1)
    return u * y.expand_as(u)


def with_convolutions(m: Any, x: Tensor) -> Tensor:
    u = m.c(x)
    return m.d(m.e(u.mean((2, 3), keepdim=True)).relu()).sigmoid() * u


def with_one_dimension(m: Any, x: Tensor) -> Tensor:
    u = m.c(x)
    return u * m.g(m.f(u.mean((2, 3), True).squeeze(-1)).relu()).sigmoid().unsqueeze(-1)


def used_twice(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    u = m.c(x)
    z = u.mean((2, 3))
    return u * m.b(m.a(z)).sigmoid()[..., None, None], z


THEIRS = {
    "official_eca": official_eca,
    "views": with_views,
    "convolutions": with_convolutions,
    "one_dimension": with_one_dimension,
    "twice": used_twice,
}


def test_units_of_others() -> None:
    layers = {"a": nn.Linear(16, 4), "b": nn.Linear(4, 16), "e": conv(16, 4, 1), "d": conv(4, 16, 1)}
    layers |= {"k": conv(1, 1, 3, dims=1, padding=1), "f": conv(16, 4, 1, dims=1), "g": conv(4, 16, 1, dims=1)}
    nets = {name: Fn(unit, c=conv(4, 16, 1), **layers) for name, unit in THEIRS.items()}
    fast = same(Each(nets), 4, 5, 7)
    assert fast.rewrites.early == list(THEIRS)
    assert fast.any_size


def gated(*layers: nn.Module, **se: Any) -> nn.Module:
    return nn.Sequential(*layers, SEConfig(reduction=4, **se).build(16))


def one_of_two(m: Any, x: Tensor) -> Tensor:
    u = m.c(x)
    return u * (m.b(m.a(u.mean((2, 3)))) + m.b(m.a(u.amax((2, 3))))).sigmoid()[..., None, None]


KEPT: dict[str, tuple[nn.Module, str]] = {
    "3x3": (gated(conv(4, 16, 3)), "the feature map comes from a convolution other than a plain 1x1"),
    "stride": (gated(conv(4, 16, 1, stride=2)), "the feature map comes from a convolution other than a plain 1x1"),
    "padding": (gated(conv(4, 16, 1, padding=1)), "the feature map comes from a convolution other than a plain 1x1"),
    "narrowing": (gated(conv(4, 20, 1), conv(20, 16, 1)), "the 1x1 convolution before reduces the channels"),
    "relu": (gated(conv(4, 16, 1), nn.ReLU()), "the feature map comes from relu"),
    "max": (gated(conv(4, 16, 1), squeeze="max"), "the squeeze is not a mean"),
    "two": (
        Fn(one_of_two, c=conv(4, 16, 1), a=nn.Linear(16, 4), b=nn.Linear(4, 16)),
        "the gates are computed from several squeezes",
    ),
}


def test_where_it_stays() -> None:
    rewrites = same(Each({name: net for name, (net, _) in KEPT.items()}), 4, 5, 7).rewrites
    assert not rewrites.early
    skipped = {where.split(".")[0]: (what, why) for where, what, why in rewrites.skipped}
    assert skipped == {name: ("squeeze", why) for name, (_, why) in KEPT.items()}
    assert str(rewrites).splitlines()[:2] == [
        "   3 squeezes not rewritten: the feature map comes from a convolution other than a plain 1x1 (3x3.1, ...)",
        "   1 squeeze not rewritten: the 1x1 convolution before reduces the channels (narrowing.2)",
    ]


def test_a_mean_in_another_type_stays() -> None:
    model = Fn(lambda m, x: (u := m.c(x)) * u.mean((2, 3), True, dtype=torch.float32).sigmoid(), c=conv(4, 16, 1))
    assert not same(model, 4, 5, 7, bound=1e-6).rewrites.early


def test_what_is_no_unit() -> None:
    """Gates of their own position, of the batch's mean, of half the space; a scale that was learned."""
    functions = {
        "positions": lambda m, x: (u := m.c(x)) * u.sigmoid(),
        "batch": lambda m, x: (u := m.c(x)) * u.mean((0, 2, 3), True).sigmoid(),
        "halved": lambda m, x: (u := m.c(x)) * u.mean((2,), True).sigmoid(),
        "learned": lambda m, x: m.c(x) * m.c.bias.view(1, -1, 1, 1),
    }
    rewrites = same(Each({name: Fn(f, c=conv(4, 16, 1)) for name, f in functions.items()}), 4, 5, 7).rewrites
    assert not rewrites.early
    assert not rewrites.skipped
