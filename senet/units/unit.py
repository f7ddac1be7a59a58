"""What every attention unit shares: gates computed from a feature map, which they multiply (Eq. 4)."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from senet import functional as sf
from senet.errors import ConfigError


def check_channels(channels: int) -> None:
    """Raise ConfigError for less than one channel."""
    if channels < 1:
        raise ConfigError(f"channels: {channels!r} is too small; expected: 1 or more")


class Unit(nn.Module):
    """Abstract: a unit `(N, C, *) -> (N, C, *)` for 1-D, 2-D and 3-D feature maps; a final class computes its gates."""

    recalibrate = staticmethod(sf.recalibrate)

    def gate(self, u: Tensor) -> Tensor:
        """The gates, without applying them: one per channel, `(N, C)`, or one per element, `(N, C, *)`."""
        raise NotImplementedError

    def zero_(self) -> float:
        """Zero what the gate function acts on, so that every gate is gate(0), in place; return gate(0)."""
        raise NotImplementedError

    @overload
    def forward(self, u: Tensor, return_gate: Literal[False] = ...) -> Tensor: ...
    @overload
    def forward(self, u: Tensor, return_gate: Literal[True]) -> tuple[Tensor, Tensor]: ...
    def forward(self, u: Tensor, return_gate: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The recalibrated feature map of the shape of `u`; with `return_gate` also the gates of `gate(u)`."""
        if not return_gate:
            return self.recalibrate(u, self)
        s = self.gate(u)
        return sf.scale(u, s), s


class TwoLayerUnit(Unit):
    """Abstract: a unit of two layers, `fc1` (C to C/r) and `fc2` (C/r to C), whose shape a final class decides.

    Parameters: `fc1.weight` (C/r, C), `fc2.weight` (C, C/r) and, with `bias`, their biases.
    """

    def __init__(self, channels: int, hidden: int, bias: bool) -> None:
        super().__init__()
        check_channels(channels)
        self.fc1 = nn.Linear(channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, channels, bias=bias)
