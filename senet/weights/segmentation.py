"""The names of segmentation_models.pytorch: its SE encoders are Cadene's networks without a classifier."""

from __future__ import annotations

from collections.abc import Mapping

from senet.weights import cadene
from senet.weights.convention import Convention, Shape


def _sees(shapes: Mapping[str, Shape]) -> bool:
    return cadene.layer0(shapes) and "last_linear.weight" not in shapes


CONVENTION = Convention(name="segmentation", sees=_sees, key=cadene.key, settle=cadene.settle)
