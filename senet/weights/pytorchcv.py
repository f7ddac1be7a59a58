"""pytorchcv's names (imgclsmob): a block is `stage1.unit1`, with a `body`, an `se` and an `identity_conv`.

Its networks pool with padding. Its `resnet50` has the stride in the first 1x1 convolution, its `resnet50b` in the 3x3.
The names of the tensors do not tell the two apart; the name of the file may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeGuard

from senet.models.net import Net, ResidualNet
from senet.weights.convention import Convention, Inferred, Shape, no_names
from senet.weights.moskomule import CIFAR
from senet.weights.residual import infer_residual, stem_layer

FIRST = "features.stage1.unit1.body.conv1.conv.weight"
CIFAR_STEM = "features.init_block.conv.weight"
IN_A_UNIT = {
    "conv1": "body.conv1.conv",
    "norm1": "body.conv1.bn",
    "conv2": "body.conv2.conv",
    "norm2": "body.conv2.bn",
    "conv3": "body.conv3.conv",
    "shortcut.conv": "identity_conv.conv",
    "shortcut.norm": "identity_conv.bn",
    "se.fc1": "se.conv1",
    "se.fc2": "se.conv2",
}


def _matches(shapes: Mapping[str, Shape]) -> bool:
    return FIRST in shapes and CIFAR_STEM not in shapes


def _matches_cifar(shapes: Mapping[str, Shape]) -> bool:
    return FIRST in shapes and CIFAR_STEM in shapes


def _key(name: str, net: Net) -> str:
    module, _, leaf = name.rpartition(".")
    if not isinstance(net, ResidualNet):
        raise no_names("pytorchcv", net)
    if module == "classifier":
        return f"output.fc.{leaf}" if net.stem.before else f"output.{leaf}"
    _, part, *inner = module.split(".", 3)
    if part == "stem":
        kind, index, count = stem_layer(".".join(inner), net)
        block = "" if net.pool == "none" else f"conv{index}." if count > 1 else "conv."
        return f"features.init_block.{block}{'conv' if kind == 'conv' else 'bn'}.{leaf}"
    number, unit, child = int(part.removeprefix("stage")) - 1, inner[0].removeprefix("block"), inner[1]
    last = "body.conv2.bn" if net.stages[number - 1].block == "basic" else "body.conv3.bn"
    names = IN_A_UNIT | {"norm": last}
    if child not in names:
        raise no_names("pytorchcv", net)
    return f"features.stage{number}.unit{unit}.{names[child]}.{leaf}"


def _either(net: Net) -> TypeGuard[ResidualNet]:
    """Whether pytorchcv has this network twice, with the stride in the 1x1 and in the 3x3 convolution."""
    if not isinstance(net, ResidualNet) or net.pool == "none":
        return False
    return all(row.block == "bottleneck" and row.groups == 1 for row in net.stages)


def _infer(net: Net, shapes: Mapping[str, Shape]) -> Inferred:
    stride_on = net.stride_on if _either(net) else "3x3"
    return infer_residual("pytorchcv", _key, net, shapes, stride_on=stride_on)


def _file(name: str) -> re.Match[str] | None:
    return re.match(r"(?:se)?resnet(?:bc)?\d+(b?)(?![\da-z])", name)


def _unknown_fields(net: Net, name: str) -> tuple[str, ...]:
    return ("stride_on",) if _either(net) and not _file(name) else ()


def _infer_from_name(net: Net, name: str) -> Inferred:
    if not _either(net):
        return net, ()
    if found := _file(name):
        return replace(net, stride_on="3x3" if found[1] else "1x1"), ()
    return net, (
        f"stride_on: kept at {net.stride_on}; these names do not tell seresnet50 (1x1) from seresnet50b (3x3)",
    )


RESIDUAL = Convention(
    name="pytorchcv",
    matches=_matches,
    key=_key,
    infer=_infer,
    infer_from_name=_infer_from_name,
    unknown_fields=_unknown_fields,
)
CIFAR_RESIDUAL = Convention(name="pytorchcv", matches=_matches_cifar, key=_key, infer=_infer, preprocessing=CIFAR)
