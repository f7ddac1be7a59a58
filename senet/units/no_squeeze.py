"""Table 16 of arXiv:1709.01507v4: the excitation at every position, without the squeeze."""

from __future__ import annotations

from torch import Tensor

from senet import functional as sf
from senet.units.config import NoSqueezeConfig
from senet.units.unit import TwoLayerUnit


class NoSqueeze(TwoLayerUnit):
    """`u * gate(W2 relu(W1 u))` with W1, W2 as 1x1 convolutions. `(N, C, *) -> (N, C, *)`.

    The parameters have the names and shapes of `SqueezeExcite`'s, so weights move between the two.
    """

    def __init__(self, channels: int, config: NoSqueezeConfig | None = None) -> None:
        config = config or NoSqueezeConfig()
        super().__init__(channels, config.hidden(channels), config.bias)
        self.config = config

    def gate(self, u: Tensor) -> Tensor:
        """One gate per element: `(N, C, *) -> (N, C, *)`."""
        fc1, fc2 = self.fc1, self.fc2
        return sf.excitation_map(u, fc1.weight, fc1.bias, fc2.weight, fc2.bias, self.config.gate)

    def zero_(self) -> float:
        """Zero the second layer; W1 learns as soon as W2 has moved."""
        return sf.zero_gate_(self.fc2, self.config.gate)

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"reduction={self.config.reduction}, gate={self.config.gate!r}"
