"""Where a unit sits in a residual block: Figure 5 of arXiv:1709.01507v4. Loads no torch."""

from __future__ import annotations

from typing import TypeVar

from senet.config import UnitConfig
from senet.errors import ConfigError

T = TypeVar("T")


def at_place(se: UnitConfig, block: str, *, before: T, inside: T, after: T) -> T:
    """Choose the feature map that the unit rescales, by its channels or by its shape.

    Args:
        se: The unit; `se.placement` is its place.
        block: "basic" or "bottleneck".
        before: Of the block's input.
        inside: Of the 3x3 convolution's output in a bottleneck.
        after: Of the block's output.

    Raises:
        ConfigError: For the place "conv3x3" in a basic block.
    """
    if se.placement == "conv3x3":
        if block == "basic":
            raise ConfigError(
                "se.placement: 'conv3x3' needs bottlenecks, whose branch has one 3x3; a basic block has two"
            )
        return inside
    return before if se.placement in ("pre", "identity_before") else after
