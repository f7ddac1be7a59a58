"""The squeeze-and-excitation unit: Eqs. 2-4 of arXiv:1709.01507v4, the choices of Tables 10-12."""

from __future__ import annotations

import torch
from torch import Tensor

from senet import functional as sf
from senet.units.config import SEConfig
from senet.units.unit import TwoLayerUnit


class SqueezeExcite(TwoLayerUnit):
    """`x~_c = s_c u_c` with `s = gate(W2 relu(W1 squeeze(u)))`. `(N, C, *) -> (N, C, *)` in 1-D, 2-D and 3-D.

    Parameters: `fc1.weight` (C/r, C), `fc2.weight` (C, C/r) and, with `config.bias`, their biases.

    >>> import torch
    >>> unit = SEConfig(reduction=16).build(64)
    >>> u = torch.randn(2, 64, 7, 7)
    >>> y, s = unit(u, return_gate=True)
    >>> y.shape, s.shape
    (torch.Size([2, 64, 7, 7]), torch.Size([2, 64]))
    """

    def __init__(self, channels: int, config: SEConfig | None = None) -> None:
        config = config or SEConfig()
        super().__init__(channels, config.hidden(channels), config.bias)
        self.config = config

    def gate(self, u: Tensor) -> Tensor:
        """Eqs. 2 and 3: `(N, C, *) -> (N, C)`."""
        z = sf.squeeze(u, self.config.squeeze)
        # `sf.excitation` by way of the modules: hooks, pruning and quantisation see the calls of fc1 and fc2.
        return sf.GATES[self.config.gate](self.fc2(torch.relu(self.fc1(z))))

    def zero_(self) -> float:
        """Zero the second layer; W1 learns as soon as W2 has moved."""
        return sf.zero_gate_(self.fc2, self.config.gate)

    def extra_repr(self) -> str:
        """The choices, as print shows them."""
        return f"reduction={self.config.reduction}, squeeze={self.config.squeeze!r}, gate={self.config.gate!r}"
