"""The names of mmpretrain (mmclassification): a backbone, a head, units of two convolution modules.

Its networks pool with padding, stride in the 3x3 (its style "pytorch"), and round hidden widths to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from senet.weights.convention import Convention, Shape
from senet.weights.residual import infer_residual, layer_key


def _matches(shapes: Mapping[str, Shape]) -> bool:
    # With a classifier inside the backbone it is torchvision's network in somebody's module.
    return "backbone.layer1.0.conv1.weight" in shapes and "backbone.fc.weight" not in shapes


_UNIT = ("se_layer.conv1.conv", "se_layer.conv2.conv")
_key = partial(layer_key, "mmpretrain", unit=_UNIT, root="backbone.", head="head.fc")

CONVENTION = Convention(
    name="mmpretrain", matches=_matches, key=_key, infer=partial(infer_residual, "mmpretrain", _key, round_to=8)
)
