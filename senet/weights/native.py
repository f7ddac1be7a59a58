"""Our own names. The header of a file states its network's table; without one, shapes tell only a little of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from senet.config import field_types
from senet.errors import CheckpointError
from senet.models.net import Net, ResidualNet
from senet.units.config import SEConfig
from senet.weights.convention import Convention, Inferred, Shape, refusal
from senet.weights.residual import unit_by_shapes

KEPT = ("num_classes", "in_channels", "image_size", "dropout")
"""Fields that are not taken from a file's table: shapes tell them, or the weights do not depend on them."""


def _matches(shapes: Mapping[str, Shape]) -> bool:
    return any(re.match(r"features\.stage\d+\.(block1|inception_)", name) for name in shapes)


def _key(name: str, net: Net) -> str:
    return name


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    if not shapes:
        return net, ()
    if isinstance(net, ResidualNet):
        projects = any(".shortcut.conv." in name for name in shapes)
        padded = "zero_pad" if net.shortcut == "projection" else net.shortcut
        net = replace(net, shortcut="projection") if projects else replace(net, shortcut=padded, projection="1x1")
    if isinstance(net.se, SEConfig):
        net = replace(net, se=unit_by_shapes("senet", _key, net, shapes, net.se))
    return net, (
        "the file does not state its table: pooling, strides, padding and gates are assumed to be the model's",
    )


def _unknown_fields(net: Net, name: str) -> tuple[str, ...]:
    if not isinstance(net, ResidualNet):
        return ()
    has_1x1 = any(row.block == "bottleneck" for row in net.stages)
    return ("pool",) * (net.pool != "none") + ("stride_on",) * has_1x1


def as_written(net: Net, written: Net) -> Net:
    """The network's table with the options that a file states: pooling, strides, the unit's fields.

    Raises:
        CheckpointError: For another family, other sizes or another kind of unit; the message names the field.
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
        # Strings and switches are options; everything else is a size.
        if here != there and field != "se" and not isinstance(there, (str, bool)):
            raise CheckpointError(f"senet: {field} is {here!r} in this network and {there!r} in the file")
    return written


CONVENTION = Convention(
    name="senet",
    matches=_matches,
    key=_key,
    infer=_infer,
    preprocessing=None,
    unknown_fields=_unknown_fields,
    conv_units=False,
)
