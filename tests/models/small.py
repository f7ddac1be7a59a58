"""The smallest network of a table's kind: all its kinds of layers at a fraction of the time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from senet import Net, get_net

FAMILIES = {
    "basic": get_net("resnet18"),
    "bottleneck": get_net("resnet50"),
    "grouped": get_net("resnext50_32x4d"),
    "senet154": get_net("senet154_plain"),
    "cifar": get_net("resnet20"),
    "preact": get_net("preresnet110"),
    "preact_bottleneck": get_net("preresnet164"),
    "shake": get_net("shake_shake_26_2x96d"),
    "shake_bottleneck": get_net("shake_even_29_2x4x64d"),
    "vgg": get_net("vgg16_bn"),
    "inception": get_net("bn_inception"),
    "inception_resnet": get_net("inception_resnet_v2"),
    "mobile": get_net("mobilenet"),
    "shuffle": get_net("shufflenet_g3"),
}
"""One plain network for each kind of block and stem; the others of the registry differ in depth and width alone."""


def small(net: Any) -> Net:
    """One block per stage, two where the second is of another kind, few classes; the widths are the real ones."""
    few: dict[str, Any] = {"num_classes": 5}
    if net.kind in ("residual", "preact", "shake"):
        return replace(net.depths(*(1 for _ in net.stages)), **few)
    if net.kind == "vgg":
        few |= {"hidden": 16}
    if net.kind in ("vgg", "mobile", "shuffle"):
        depth = 2 if net.kind == "shuffle" else 1
        few["stages"] = tuple(replace(row, depth=depth) for row in net.stages)
    if net.kind == "inception":
        # A module with a stride in each of the first stages, one without in the last.
        few["stages"] = tuple(rows[-1:] for rows in net.stages)
    return replace(net, **few)


def pixels(net: Net) -> int:
    """A side that leaves more than one place in the last map: at one, batch norm over two images hides gradients."""
    return {32: 16, 224: 64, 299: 107}[net.image_size]
