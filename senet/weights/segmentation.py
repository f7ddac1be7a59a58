"""The names of segmentation_models.pytorch: its SE encoders are Cadene's networks without a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from senet.models.net import Net
from senet.weights import cadene
from senet.weights.convention import Convention, Inferred, Shape


def _matches(shapes: Mapping[str, Shape]) -> bool:
    return cadene.layer0(shapes) and "last_linear.weight" not in shapes


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    inferred, notes = cadene.infer(net, shapes)
    return inferred if shapes else replace(inferred, num_classes=0), notes


CONVENTION = Convention(name="segmentation", matches=_matches, key=cadene.key, infer=_infer)
