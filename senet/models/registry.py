"""Names of networks. A `Net` in a family's file is a model of that variable's name; `FAMILIES` lists the files."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, TypedDict

from senet.config import UnitConfig, named_values, override
from senet.errors import ConfigError, unknown
from senet.models.detector import detector_net, split_name
from senet.models.net import Net, Shortcut
from senet.models.other import is_other, other_net

FAMILIES = (
    "resnet",
    "resnext",
    "senet154",
    "vgg",
    "inception",
    "inception_resnet",
    "mobile",
    "cifar",
    "preact",
    "shake",
)
"""The families' files, in the order of `list_models()`."""


SHORT = {
    "resnext50": "resnext5032x4d",
    "resnext101": "resnext10132x4d",
    "vgg16": "vgg16bn",
    "inceptionv2": "bninception",
    "mobilenetv1": "mobilenet",
    "mobilenetv1100": "mobilenet",
    "shufflenet": "shufflenetg3",
    "shufflenet1xg3": "shufflenetg3",
    "wideresnet168": "wrn168",
    "shakeshake": "shakeshake262x96d",
    "shakeeven": "shakeeven292x4x64d",
}
"""What people call some networks, without separators and without "se"."""


class NetFields(TypedDict, total=False):
    """The fields of a network that `create_model` can change; `Net` and the class of its family explain them."""

    num_classes: int
    in_channels: int
    image_size: int
    dropout: float
    se: UnitConfig | None
    pool: Literal["ceil", "pad", "none"]
    stride_on: Literal["1x1", "3x3"]
    shortcut: Shortcut
    projection: Literal["1x1", "3x3"]
    first_1x1: Literal["full", "half"]
    se_at: str
    conv_bias: bool
    layout: Literal["slim", "figures"]
    shake: Literal["shake", "even"]
    stem_width: int
    hidden: int
    groups: int


@cache
def nets() -> dict[str, Net]:
    """Every named network, in the order of the families' files."""
    return named_values("senet.models", FAMILIES, Net)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, in the order of the families.

    >>> list_models("se_resnext*")
    ['se_resnext50_32x4d', 'se_resnext101_32x4d', 'se_resnext152_64x4d']
    """
    return [name for name in nets() if fnmatchcase(name, pattern)]


def canonical_name(name: str) -> str:
    """The name here of a network that people know as `seresnet50`, `legacy_seresnet50` or `SE-ResNet-50`.

    A unit behind it, "resnet50+eca", stays, and so does another library's name, "timm:resnet18". A detector's is
    "fasterrcnn_NETWORK_fpn", "maskrcnn_NETWORK_fpn" or "retinanet_NETWORK_fpn".

    Raises ConfigError for an unknown name, with the nearest one and how to list all.
    """
    if not isinstance(name, str):
        raise ConfigError(f"model: {name!r} is not a network's name, a string (create_model also takes a Net)")
    name, plus, unit = name.partition("+")
    if parts := split_name(name):
        return f"{parts[0]}_{canonical_name(parts[1])}_fpn{plus}{unit}"
    if is_other(name):
        return f"{name}{plus}{unit}"
    if name.endswith(".py"):
        raise ConfigError(f"model: {name!r} is a file; expected: {name}:FUNCTION")
    word = re.sub(r"[-_. ]+", "", name.lower()).removeprefix("legacy").removeprefix("cifar")
    known = {known.replace("_", ""): known for known in nets()}
    prefix = "se" * word.startswith("se")
    word = prefix + SHORT.get(word.removeprefix(prefix), word.removeprefix(prefix))
    if word not in known:
        raise unknown("model", name, nets(), kind="all models", listing="senet models, in Python senet.list_models()")
    return f"{known[word]}{plus}{unit}"


def plain_twin(name: str) -> str | None:
    """The name of an SE network's plain twin, the same table with `se=None`; None for a plain network.

    >>> plain_twin("se_resnet50"), plain_twin("fasterrcnn_se_resnet50_fpn"), plain_twin("resnet50")
    ('resnet50', 'fasterrcnn_resnet50_fpn', None)
    """
    net = get_net(name)
    if net.se is None:
        return None
    if parts := split_name(canonical_name(name).partition("+")[0]):
        return f"{parts[0]}_{plain_twin(parts[1]) or parts[1]}_fpn"
    plain = replace(net, se=None)
    return next((n for n, other in nets().items() if other == plain), name.partition("+")[0])


def get_net(name: str) -> Net:
    """The table of a network.

    Args:
        name: A name or alias, or "timm:NAME", "torchvision:NAME" or "FILE.py:FUNCTION"; then optionally a unit, with
            fields: "+eca", "+se:reduction=8,gate=tanh". A detector has any of these in its name.

    Raises:
        ConfigError: For an unknown network, unit or field.

    >>> get_net("resnet50+se:reduction=8").se.reduction
    8
    """
    name, plus, unit = canonical_name(name).partition("+")
    if parts := split_name(name):
        net: Net = detector_net(parts[0], get_net(parts[1]))
    else:
        net = other_net(name) if is_other(name) else nets()[name]
    if not plus:
        return net
    kind, _, fields = unit.partition(":")
    if kind not in UnitConfig.kinds:
        raise unknown("model", kind, UnitConfig.kinds, kind="units")
    return replace(net, se=override(UnitConfig.kinds[kind](), *(text for text in fields.split(",") if text)))
