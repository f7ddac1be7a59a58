"""Our own names. A file's header says the table of its function; without one, the shapes say the little they can."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from senet.config import field_types
from senet.errors import CheckpointError
from senet.models.net import Net, ResidualNet
from senet.units.config import SEConfig
from senet.weights.convention import Convention, Settled, Shape, refusal
from senet.weights.residual import unit_by_shapes

KEPT = ("num_classes", "in_channels", "image_size", "dropout")
"""The fields in which a file's table does not count: the shapes do, or nothing in the weights depends on them."""


def _sees(shapes: Mapping[str, Shape]) -> bool:
    return any(re.match(r"features\.stage\d+\.(block1|inception_)", name) for name in shapes)


def _key(name: str, net: Net) -> str:
    return name


def _settle(net: Net, shapes: Mapping[str, Shape]) -> Settled:
    if not shapes:
        return net, ()
    if isinstance(net, ResidualNet):
        projects = any(".shortcut.conv." in name for name in shapes)
        net = replace(net, shortcut="projection") if projects else replace(net, shortcut="zero_pad", projection="1x1")
    if isinstance(net.se, SEConfig):
        net = replace(net, se=unit_by_shapes("senet", _key, net, shapes, net.se))
    return net, ("the file does not say its table: pooling, strides and gates are taken to be the model's",)


def _untold(net: Net, name: str) -> tuple[str, ...]:
    if not isinstance(net, ResidualNet):
        return ()
    has_1x1 = any(row.block == "bottleneck" for row in net.stages)
    return ("pool",) * (net.pool != "none") + ("stride_on",) * has_1x1


def as_written(net: Net, written: Net) -> Net:
    """The table that a file of ours states, its choices in place of the model's: pooling, strides, the unit's fields.

    Raises CheckpointError, naming the field, for another family, other sizes or another kind of unit.
    """
    if type(written) is not type(net):
        raise refusal("senet", "family", net.kind, written.kind)
    if net.se is None or written.se is None:
        written = replace(written, se=net.se)
    elif type(written.se) is not type(net.se):
        raise refusal("senet", "se", net.se, written.se)
    written = replace(written, **{field: getattr(net, field) for field in KEPT})
    for field in field_types(type(net)):
        here, there = getattr(net, field), getattr(written, field)
        # A choice is a word or a switch; everything else is a size.
        if here != there and field != "se" and not isinstance(there, (str, bool)):
            raise CheckpointError(f"senet: {field} is {here!r} in this network and {there!r} in the file's")
    return written


CONVENTION = Convention(
    name="senet", sees=_sees, key=_key, settle=_settle, preprocessing=None, untold=_untold, conv_units=False
)
