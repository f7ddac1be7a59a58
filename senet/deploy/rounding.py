"""How far the outputs of a rewritten network may be from the original's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy

from torch import Tensor, nn

from senet.outputs import tensors
from senet.tracing import evaluating

TOLERANCE = 1e-4
"""Relative L2 distance of outputs that is accepted of any network."""

MOST = 1e-2
"""Relative L2 distance that is accepted of no network."""


def distance(have: Tensor, want: Tensor) -> float:
    """Relative L2 distance of outputs; NaN if one of them has a NaN."""
    return float((have.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30))


def worst(haves: Iterable[Tensor], wants: Iterable[Tensor]) -> float:
    """The largest distance of several outputs; NaN if one is."""
    found = [distance(have, want) for have, want in zip(haves, wants, strict=True)]
    # `max` alone may drop a NaN.
    return max(found, key=lambda d: math.inf if math.isnan(d) else d, default=0.0)


def check_distance(found: float, network: nn.Module, inputs: Sequence[Tensor]) -> str:
    """Say what is expected of a distance, "" if it is small enough: `TOLERANCE`, or 8 times the network's own rounding.

    Many layers of random weights enlarge rounding. The network is only computed in float64 for distances above
    `TOLERANCE`.

    Args:
        found: Largest distance of an output.
        network: The original.
        inputs: Its inputs.
    """
    if found <= TOLERANCE:
        return ""
    own = rounding(network, inputs) if found <= MOST else 0.0
    accepted = min(MOST, max(TOLERANCE, 8 * own))
    return "" if found <= accepted else f"{accepted:.0e} or less"


def rounding(network: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Relative L2 distance of a network's outputs in float32 from those in float64; 0 if it does not run in float64."""
    try:
        exactly = deepcopy(network).double()
        with evaluating(network), evaluating(exactly):
            given = [t.double() if t.is_floating_point() else t.clone() for t in inputs]
            return worst(tensors(network(*(t.clone() for t in inputs))), tensors(exactly(*given)))
    # Networks that name their dtype fail in many ways.
    except Exception:
        return 0.0
