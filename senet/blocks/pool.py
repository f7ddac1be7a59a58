"""The squeeze of the whole network: the mean over space before the classifier."""

from __future__ import annotations

from torch import Tensor, nn

from senet import functional as sf


class MeanOverSpace(nn.Module):
    """Global average pooling: `(N, C, H, W) -> (N, C)`, any height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """Each channel's mean."""
        return sf.squeeze(x)
