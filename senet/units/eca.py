"""Efficient channel attention, arXiv:1910.03151: a channel's gate from its neighbours, no reduction."""

from __future__ import annotations

from torch import Tensor, nn

from senet import functional as sf
from senet.units.config import ECAConfig
from senet.units.unit import Unit, check_channels


class ECA(Unit):
    """`s = gate(conv1d_k(mean(u)))`. `(N, C, *) -> (N, C, *)`. Parameters: `conv.weight` (1, 1, k), no bias."""

    def __init__(self, channels: int, config: ECAConfig | None = None) -> None:
        super().__init__()
        check_channels(channels)
        self.config = config or ECAConfig()
        width = self.config.width(channels)
        self.conv = nn.Conv1d(1, 1, width, padding=width // 2, bias=False)

    def gate(self, u: Tensor) -> Tensor:
        """`(N, C, *) -> (N, C)`."""
        z = sf.squeeze(u).unsqueeze(1)
        # `sf.eca_excitation` by way of the module: hooks, pruning and quantisation see the call of conv.
        return sf.GATES[self.config.gate](self.conv(z).squeeze(1))

    def zero_(self) -> float:
        """Zero the convolution."""
        return sf.zero_gate_(self.conv, self.config.gate)

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"gate={self.config.gate!r}"
