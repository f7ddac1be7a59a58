"""The names of segmentation_models.pytorch: its SE encoders are Cadene's networks without a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from senet.models.net import Net
from senet.weights import cadene
from senet.weights.convention import Convention, Settled, Shape


def _sees(shapes: Mapping[str, Shape]) -> bool:
    return cadene.layer0(shapes) and "last_linear.weight" not in shapes


def _settle(net: Net, shapes: Mapping[str, Shape]) -> Settled:
    settled, notes = cadene.settle(net, shapes)
    return settled if shapes else replace(settled, num_classes=0), notes


CONVENTION = Convention(name="segmentation", sees=_sees, key=cadene.key, settle=_settle)
