"""Attention units into a network that is already there: its parameter names stay, and so does its function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import torch
from torch import Tensor, nn

from senet import functional as sf
from senet.config import UnitConfig, check_concrete
from senet.errors import ConfigError
from senet.initial import draw_
from senet.units.unit import Unit

CHILD = "se"
"""Name under which a unit is added to the module whose output it gates."""


@dataclass(frozen=True)
class Site:
    """Where a unit went: the module's name, its channels, the unit's parameters."""

    name: str
    channels: int
    params: int


class InsertedUnit(nn.Module):
    """A unit that begins as the identity: `(N, C, *) -> (N, C, *)`.

    The unit's last layer is zero, so its gates are gate(0), and what multiplies the map is `2 s` where gate(0) is a
    half (sigmoid, hard sigmoid) and `1 + s` where it is zero (tanh): exactly one, with a gradient in every gate.
    """

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit
        self.starts_at_half = unit.zero_() == 0.5

    def forward(self, u: Tensor) -> Tensor:
        """The map times its gates."""
        s = self.unit.gate(u)
        s = 2 * s if self.starts_at_half else 1 + s
        return sf.scale(u, s) if s.dim() == 2 else u * s


class _Gate:
    """The forward hook of a site: named, so that the network still pickles."""

    def __call__(self, module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return getattr(module, CHILD)(output)


def insert_(
    model: nn.Module,
    config: UnitConfig,
    where: str | Iterable[str] | Callable[[str, nn.Module], bool],
    *,
    seed: int = 0,
) -> list[Site]:
    """Add a unit behind convolutions or norms of any network, in place; return where.

    The network's outputs do not move at all until the units learn, and its parameters keep their names; the units' are
    new, under `<site>.se.unit.`.

    where: names of modules as in `model.named_modules()`, shell patterns allowed ("layer*.bn3" is the end of every
        residual branch of torchvision's ResNet-50: the paper's standard place), or a function of name and module.

    Raises ConfigError where nothing matches, a match is not a convolution or a norm, has a unit already or channels
    that the unit cannot take, or the gate has no gradient at zero ("relu"); nothing is changed then.

    >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    >>> from senet import SEConfig
    >>> insert_(net, SEConfig(), "0")
    [Site(name='0', channels=32, params=162)]
    """
    check_concrete("config", config)
    if getattr(config, "gate", None) == "relu":
        raise ConfigError(
            "gate: 'relu' cannot learn from where it changes nothing; legal values: sigmoid, hard_sigmoid, tanh"
        )
    if config.placement != "standard" or config.stages is not None:
        raise ConfigError("placement, stages: have no effect on insertion, where `where` says it; leave them out")
    patterns = [where] if isinstance(where, str) else where
    if callable(patterns):
        found = {name: m for name, m in model.named_modules() if patterns(name, m)}
    else:
        found = {}
        for pattern in patterns:
            matches = {name: m for name, m in model.named_modules() if fnmatchcase(name, pattern)}
            if not matches:
                raise ConfigError(f"where: no module is called {pattern!r}")
            found |= matches
    if not found:
        raise ConfigError("where: no module matches")
    widths = {name: _channels(name, module) for name, module in found.items()}
    # All are built before the first is attached, so that one that cannot be leaves the network as it was.
    units = {}
    for name, module in found.items():
        unit = config.build(widths[name])
        draw_(unit, seed, f"{name}.{CHILD}.unit")
        like = next(chain(module.parameters(), model.parameters()), torch.empty(()))
        units[name] = InsertedUnit(unit).to(like.device, like.dtype).train(module.training)  # type: ignore[arg-type]
    for name, unit in units.items():
        found[name].add_module(CHILD, unit)
        found[name].register_forward_hook(_Gate())
    return [Site(name, widths[name], sum(p.numel() for p in unit.parameters())) for name, unit in units.items()]


def _channels(name: str, module: nn.Module) -> int:
    if hasattr(module, CHILD):
        raise ConfigError(f"where: {name!r} has a unit already")
    # What convolutions, batch and instance norms, and group norms call it.
    words = ("out_channels", "num_features", "num_channels")
    width = next((getattr(module, word) for word in words if hasattr(module, word)), None)
    # A norm without parameters has a weight, None; a network that has `num_features` has no weight of its own.
    if not isinstance(width, int) or not hasattr(module, "weight"):
        raise ConfigError(f"where: {name!r} is a {type(module).__name__}; a unit goes behind a convolution or a norm")
    return width
