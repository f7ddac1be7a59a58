"""Table 16 of arXiv:1709.01507v4: the excitation at every position, without the squeeze."""

from __future__ import annotations

from torch import Tensor, nn

from senet import functional as sf
from senet.units.config import NoSqueezeConfig
from senet.units.unit import Unit


class NoSqueeze(Unit):
    """`u * gate(W2 relu(W1 u))` with W1, W2 as 1x1 convolutions. `(N, C, *) -> (N, C, *)`.

    The parameters have the names and shapes of `SqueezeExcite`'s, so weights move between the two.
    """

    def __init__(self, channels: int, config: NoSqueezeConfig | None = None) -> None:
        super().__init__()
        self.config = config or NoSqueezeConfig()
        hidden = self.config.hidden(channels)
        self.fc1 = nn.Linear(channels, hidden, bias=self.config.bias)
        self.fc2 = nn.Linear(hidden, channels, bias=self.config.bias)

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
