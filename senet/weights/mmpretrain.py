"""The names of mmpretrain (mmclassification): a backbone, a head, units of two convolution modules.

Its networks pool with padding, stride in the 3x3 (its style "pytorch"), and round hidden widths to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Mapping

from senet.models.net import Net
from senet.weights.convention import Convention, Settled, Shape
from senet.weights.residual import layer_key, settle_residual


def _sees(shapes: Mapping[str, Shape]) -> bool:
    return "backbone.layer1.0.conv1.weight" in shapes


def _key(name: str, net: Net) -> str:
    unit = ("se_layer.conv1.conv", "se_layer.conv2.conv")
    return layer_key("mmpretrain", name, net, unit=unit, root="backbone.", head="head.fc")


def _settle(net: Net, shapes: Mapping[str, Shape]) -> Settled:
    return settle_residual("mmpretrain", _key, net, shapes, pool="pad", stride_on="3x3", round_to=8), ()


CONVENTION = Convention(name="mmpretrain", sees=_sees, key=_key, settle=_settle)
