"""Configs of the attention units: the choices of arXiv:1709.01507v4 and two units beyond it. Loads no torch.

A config builds its unit, `SEConfig(reduction=8).build(channels=64)`. Each module is in the file named after its unit.
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

    Attributes:
        reduction: r of Eq. 3.
    """

    reduction: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "reduction")

    def hidden(self, channels: int) -> int:
        """Return the width of the first layer, C/r of Eq. 3."""
        return max(1, channels // self.reduction)

    def layer_cost(self, channels: int, bias: bool) -> tuple[int, int]:
        """Count the parameters of both layers, and their multiply-adds for one vector of channels."""
        hidden = self.hidden(channels)
        weights = 2 * channels * hidden
        return weights + bias * (hidden + channels), weights


@dataclass(frozen=True, kw_only=True)
class SEConfig(ReducingConfig, kind="se"):
    """The squeeze-and-excitation unit of arXiv:1709.01507v4, section 3, and the choices of section 6.

    Attributes:
        reduction: r of Eq. 3 and Table 10. The hidden width is `hidden(C) = max(1, C // r)`.
        squeeze: The squeeze operator, Table 11.
        gate: The gate function, Table 12.
        bias: Biases on both fully connected layers. Every released network has them; the paper's ablations (sections
            6 and 7) do not.
        round_to: Round the hidden width to a multiple of this: 8 in the networks of timm and mmpretrain, 1 (no
            rounding) in the paper's.

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
        """Return the width of the first layer, C/r of Eq. 3, rounded to `round_to`."""
        if self.round_to == 1:
            return super().hidden(channels)
        nearest = int(channels / self.reduction + self.round_to / 2) // self.round_to
        return max(1, nearest) * self.round_to

    def summary(self, channels: int) -> str:
        """Return the notation of Table 1: the widths of the two layers, "fc 16-256"."""
        return f"fc {self.hidden(channels)}-{channels}" if self.placement == "standard" else f"se {self.placement}"

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        """Count parameters and multiply-adds; the size of the feature map does not matter."""
        return self.layer_cost(channels, self.bias)

    def build(self, channels: int) -> SqueezeExcite:
        """Build the unit for `channels` channels."""
        from senet.units.se import SqueezeExcite

        return SqueezeExcite(channels, self)


@dataclass(frozen=True, kw_only=True)
class NoSqueezeConfig(ReducingConfig, kind="no_squeeze"):
    """NoSqueeze of Table 16: both layers as 1x1 convolutions at every position, without the squeeze (section 7.1).

    It has the parameters of `SEConfig`; the multiply-adds grow with the feature map.

    Attributes:
        reduction: r of Eq. 3.
        gate: The gate function, Table 12.
        bias: Biases on both layers. The paper's ablation has none.
    """

    gate: Gate = "sigmoid"
    bias: bool = True

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        """Count parameters and multiply-adds; both layers run at every position."""
        params, macs = self.layer_cost(channels, self.bias)
        return params, macs * positions

    def build(self, channels: int) -> NoSqueeze:
        """Build the unit for `channels` channels."""
        from senet.units.no_squeeze import NoSqueeze

        return NoSqueeze(channels, self)


@dataclass(frozen=True, kw_only=True)
class ECAConfig(UnitConfig, kind="eca"):
    """Efficient channel attention (arXiv:1910.03151): a 1-D convolution across channels instead of two FC layers.

    Attributes:
        kernel: Width of that convolution, an odd number. 0 means Eq. 12: `|log2(C)/2 + 1/2|`, made odd.
        gate: The gate function; a sigmoid in the paper.

    >>> ECAConfig().width(256), ECAConfig(kernel=3).width(256)
    (5, 3)
    """

    kernel: int = 0
    gate: Gate = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0):
            raise ConfigError(f"kernel: {self.kernel!r} is not a width; expected: 0 (Eq. 12), 1, 3, 5, ...")

    def width(self, channels: int) -> int:
        """Return the kernel's width for `channels` channels."""
        t = int(abs(log2(channels) / 2 + 0.5))
        return self.kernel or (t if t % 2 else t + 1)

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        """Count parameters and multiply-adds of the 1-D convolution."""
        return self.width(channels), self.width(channels) * channels

    def build(self, channels: int) -> ECA:
        """Build the unit for `channels` channels."""
        from senet.units.eca import ECA

        return ECA(channels, self)


@dataclass(frozen=True, kw_only=True)
class SharedConfig(UnitConfig, kind="shared"):
    """Groups of channels that share their weights, no FC layers: the student report's proposal (seed 000, section 4.3).

    Attributes:
        groups: Number of groups G, a divisor of the channels. There are 2 C/G + 1 parameters.
        squeeze: The squeeze operator, Table 11.
        gate: The gate function, Table 12.
    """

    groups: int = 8
    squeeze: Squeeze = "avg"
    gate: Gate = "sigmoid"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "groups")

    def group_size(self, channels: int) -> int:
        """Return the channels of one group.

        Raises:
            ConfigError: If the groups do not divide the channels.
        """
        if channels % self.groups:
            raise ConfigError(f"groups: {self.groups} does not divide the {channels} channels of a block")
        return channels // self.groups

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        """Count the parameters; elementwise products are not counted as multiply-adds."""
        return 2 * self.group_size(channels) + 1, 0

    def build(self, channels: int) -> SharedExcite:
        """Build the unit for `channels` channels; ConfigError if the groups do not divide them."""
        from senet.units.shared import SharedExcite

        return SharedExcite(channels, self)
