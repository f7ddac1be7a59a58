"""Names of networks. A `Net` in a family's file is a model of that variable's name; `FAMILIES` lists the files."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, TypedDict

from senet.config import UnitConfig, named_values
from senet.errors import ConfigError, unknown
from senet.models.net import Net

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
    """The fields of a network that `create_model` can change; what they mean is said in `Net` and in its family."""

    num_classes: int
    in_channels: int
    image_size: int
    dropout: float
    se: UnitConfig | None
    pool: Literal["ceil", "pad", "none"]
    stride_on: Literal["1x1", "3x3"]
    shortcut: Literal["projection", "zero_pad"]
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

    Raises ConfigError for a name that is none of ours, with the nearest one and how to list them.
    """
    if not isinstance(name, str):
        raise ConfigError(f"model: {name!r} is not a network's name, a string (create_model also takes a Net)")
    word = re.sub(r"[-_. ]+", "", name.lower()).removeprefix("legacy").removeprefix("cifar")
    known = {known.replace("_", ""): known for known in nets()}
    prefix = "se" * word.startswith("se")
    word = prefix + SHORT.get(word.removeprefix(prefix), word.removeprefix(prefix))
    if word not in known:
        raise unknown("model", name, nets(), kind="all models", listing="senet models, in Python senet.list_models()")
    return known[word]


def plain_twin(name: str) -> str | None:
    """The name of an SE network's plain twin, the same table with `se=None`; None for a plain network.

    >>> plain_twin("se_resnet50"), plain_twin("senet154"), plain_twin("resnet50")
    ('resnet50', 'senet154_plain', None)
    """
    net = get_net(name)
    return next(n for n, other in nets().items() if other == replace(net, se=None)) if net.se else None


def get_net(name: str) -> Net:
    """The table of a network by name or alias; ConfigError for an unknown one."""
    return nets()[canonical_name(name)]
