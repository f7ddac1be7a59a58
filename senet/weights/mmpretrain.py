"""The names of mmpretrain (mmclassification): a backbone, a head, units of two convolution modules.

Its networks pool with padding, stride in the 3x3 (its style "pytorch"), and round hidden widths to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Mapping

from senet.models.net import Net
from senet.weights.convention import Convention, Inferred, Shape
from senet.weights.residual import infer_residual, layer_key


def _matches(shapes: Mapping[str, Shape]) -> bool:
    # With a classifier inside the backbone it is torchvision's network in somebody's module.
    return "backbone.layer1.0.conv1.weight" in shapes and "backbone.fc.weight" not in shapes


def _key(name: str, net: Net) -> str:
    unit = ("se_layer.conv1.conv", "se_layer.conv2.conv")
    return layer_key("mmpretrain", name, net, unit=unit, root="backbone.", head="head.fc")


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    return infer_residual("mmpretrain", _key, net, shapes, pool="pad", stride_on="3x3", round_to=8), ()


CONVENTION = Convention(name="mmpretrain", matches=_matches, key=_key, infer=_infer)
