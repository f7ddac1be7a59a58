"""The attention units a network can carry, each as plain data: every choice of the paper, and two beyond it.

A config builds its unit, `SEConfig(reduction=8).build(channels=64)`; the modules are in the file of the unit's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Literal

from senet.config import UnitConfig, check_at_least
from senet.errors import ConfigError

if TYPE_CHECKING:
    from senet.units.eca import ECA
    from senet.units.no_squeeze import NoSqueeze
    from senet.units.se import SqueezeExcite
    from senet.units.shared import SharedExcite

Squeeze = Literal["avg", "max"]
"""The squeeze operator, Table 11: "avg" is Eq. 2."""

Gate = Literal["sigmoid", "tanh", "relu", "hard_sigmoid"]
"""The excitation's last function, Table 12: "sigmoid" is Eq. 3; "hard_sigmoid" is beyond the paper."""


@dataclass(frozen=True, kw_only=True)
class ReducingConfig(UnitConfig):
    """Abstract: a unit of two layers, the first of which reduces the channels.

    reduction: r of Eq. 3.
    """

    reduction: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "reduction")

    def hidden(self, channels: int) -> int:
        """Width of the first layer, C/r of Eq. 3."""
        return max(1, channels // self.reduction)


@dataclass(frozen=True, kw_only=True)
class SEConfig(ReducingConfig, kind="se"):
    """The squeeze-and-excitation unit of arXiv:1709.01507v4, section 3, and the choices of section 6.

    reduction: r of Eq. 3 and Table 10; the hidden width is `hidden(C) = max(1, C // r)`.
    squeeze: Table 11.  gate: Table 12.
    bias: biases on both fully connected layers. Every released network has them (the default); the paper's
        ablations (sections 6 and 7) do not.
    round_to: the hidden width is rounded to a multiple of this, at least one: 8 in timm's and mmpretrain's networks,
        1 (not rounded) in the paper's.

    >>> SEConfig(reduction=4).hidden(64)
    16
    """

    squeeze: Squeeze = "avg"
    gate: Gate = "sigmoid"
    bias: bool = True
    round_to: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "round_to")

    def hidden(self, channels: int) -> int:
        """Width of the first layer, C/r of Eq. 3, rounded."""
        if self.round_to == 1:
            return super().hidden(channels)
        nearest = int(channels / self.reduction + self.round_to / 2) // self.round_to
        return max(1, nearest) * self.round_to

    def summary(self, channels: int) -> str:
        """Table 1's notation: the widths of the two layers, where the unit sits on `channels` channels."""
        return f"fc {self.hidden(channels)}-{channels}" if self.placement == "standard" else f"se {self.placement}"

    def build(self, channels: int) -> SqueezeExcite:
        """The unit for maps of `channels` channels."""
        from senet.units.se import SqueezeExcite

        return SqueezeExcite(channels, self)


@dataclass(frozen=True, kw_only=True)
class NoSqueezeConfig(ReducingConfig, kind="no_squeeze"):
    """Table 16: the same two layers as 1x1 convolutions at every position, without the squeeze (section 7.1).

    The parameters are those of `SEConfig`; the multiply-adds grow with the map.

    reduction: r of Eq. 3.  gate: Table 12.  bias: on both layers; the paper's ablation has none.
    """

    gate: Gate = "sigmoid"
    bias: bool = True

    def build(self, channels: int) -> NoSqueeze:
        """The unit for maps of `channels` channels."""
        from senet.units.no_squeeze import NoSqueeze

        return NoSqueeze(channels, self)


@dataclass(frozen=True, kw_only=True)
class ECAConfig(UnitConfig, kind="eca"):
    """Efficient channel attention (arXiv:1910.03151): a 1-D convolution across channels instead of two FC layers.

    kernel: width of that convolution, odd; 0 takes the paper's rule, `|log2(C)/2 + 1/2|` to an odd number (Eq. 12).
    gate: the function after it; the paper's is the sigmoid.

    >>> ECAConfig().width(256), ECAConfig(kernel=3).width(256)
    (5, 3)
    """

    kernel: int = 0
    gate: Gate = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0):
            raise ConfigError(f"kernel: {self.kernel!r} is not a width; expected: 0 (by the rule), 1, 3, 5, ...")

    def width(self, channels: int) -> int:
        """Kernel width for `channels` channels."""
        t = int(abs(log2(channels) / 2 + 0.5))
        return self.kernel or (t if t % 2 else t + 1)

    def build(self, channels: int) -> ECA:
        """The unit for maps of `channels` channels."""
        from senet.units.eca import ECA

        return ECA(channels, self)


@dataclass(frozen=True, kw_only=True)
class SharedConfig(UnitConfig, kind="shared"):
    """Channels in groups that share their weights, no FC layers: the proposal of the student report (seed 000, 4.3).

    groups: number of groups G; channels must divide by it. Parameters: 2 C/G + 1.
    squeeze: Table 11.  gate: Table 12.
    """

    groups: int = 8
    squeeze: Squeeze = "avg"
    gate: Gate = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "groups")

    def build(self, channels: int) -> SharedExcite:
        """The unit for maps of `channels` channels; ConfigError where they do not divide into the groups."""
        from senet.units.shared import SharedExcite

        return SharedExcite(channels, self)
