"""The student report's proposal (seed 000, section 4.3): groups of feature maps that share their weights, no FC layers.

The report gives no formula, only words: split the feature maps into groups, share parameters among them, and add one
global weight that links the channels. This is the smallest network with those three properties; it was never measured
there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from senet import functional as sf
from senet.units.config import SharedConfig
from senet.units.unit import Unit, check_channels


class SharedExcite(Unit):
    """`s[g,k] = gate(weight[k] z[g,k] + link mean(z) + bias[k])` for group g. `(N, C, *) -> (N, C, *)`.

    Parameters: `weight` (C/G), `bias` (C/G), `link` (1).

    Raises ConfigError where the channels do not divide into the groups.
    """

    def __init__(self, channels: int, config: SharedConfig | None = None) -> None:
        super().__init__()
        check_channels(channels)
        self.config = config or SharedConfig()
        per_group = self.config.group_size(channels)
        self.weight = nn.Parameter(torch.empty(per_group))
        self.bias = nn.Parameter(torch.empty(per_group))
        self.link = nn.Parameter(torch.empty(1))
        self.reset_constants_()

    @torch.no_grad()
    def reset_constants_(self) -> None:
        """At first each gate follows its own channel's mean and not yet the others'."""
        self.weight.fill_(1.0)
        self.bias.zero_()
        self.link.zero_()

    def gate(self, u: Tensor) -> Tensor:
        """`(N, C, *) -> (N, C)`."""
        z = sf.squeeze(u, self.config.squeeze)
        return sf.shared_excitation(z, self.weight, self.bias, self.link, self.config.gate)

    def zero_(self) -> float:
        """Zero all three parameters."""
        return sf.zero_gate_(self, self.config.gate)

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"groups={self.config.groups}, squeeze={self.config.squeeze!r}, gate={self.config.gate!r}"
