"""What stays of an attention unit that is taken out: one constant per channel."""

from __future__ import annotations

from torch import Tensor, nn


class ConstantGate(nn.Module):
    """Multiply each channel by a constant: `(N, C, *) -> (N, C, *)`.

    Args:
        scale: (C,), for example the mean gates of the unit that it replaces. It is a buffer, so it is not trained.
    """

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())

    def forward(self, u: Tensor) -> Tensor:
        """Scale the feature map."""
        return u * self.scale.view(-1, *(1,) * (u.dim() - 2))
