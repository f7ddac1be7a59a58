"""Names of networks. A `Net` in a family's file is a model of that variable's name; `FAMILIES` lists the files."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Literal, TypedDict, overload

from senet.config import UnitConfig, check_concrete, named_values
from senet.errors import ConfigError, unknown
from senet.models.net import Net, with_fields

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from senet.models.network import Network, StageMaps

FAMILIES = ("resnet", "resnext", "cifar")
"""The families' files, in the order of `list_models()`."""


class NetFields(TypedDict, total=False):
    """The fields of a network that `create_model` can change; what they mean is said in `Net` and `ResidualNet`."""

    num_classes: int
    in_channels: int
    image_size: int
    dropout: float
    se: UnitConfig | None
    pool: Literal["ceil", "pad", "none"]
    stride_on: Literal["1x1", "3x3"]
    shortcut: Literal["projection", "zero_pad"]


@cache
def nets() -> dict[str, Net]:
    """Every named network, in the order of the families' files."""
    return named_values("senet.models", FAMILIES, Net)


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, in the order of the families.

    >>> list_models("se_resnext*")
    ['se_resnext50_32x4d', 'se_resnext101_32x4d']
    """
    return [name for name in nets() if fnmatchcase(name, pattern)]


def canonical_name(name: str) -> str:
    """The name here of a network that people know as `seresnet50`, `legacy_seresnet50` or `SE-ResNet-50`.

    Raises ConfigError for a name that is none of ours, with the nearest one and the list.
    """
    if not isinstance(name, str):
        raise ConfigError(f"model: {name!r} is not a network's name, a string (create_model also takes a Net)")
    word = re.sub(r"[-_. ]+", "", name.lower()).removeprefix("legacy").removeprefix("cifar")
    known = {known.replace("_", ""): known for known in nets()}
    word = {"seresnext50": "seresnext5032x4d", "seresnext101": "seresnext10132x4d"}.get(word, word)
    word = {"resnext50": "resnext5032x4d", "resnext101": "resnext10132x4d"}.get(word, word)
    if word not in known:
        raise unknown("model", name, nets(), kind="models")
    return known[word]


def get_net(name: str) -> Net:
    """The table of a network by name or alias; ConfigError for an unknown one."""
    return nets()[canonical_name(name)]


@overload
def create_model(
    model: str | Net,
    *,
    seed: int = ...,
    device: str | torch.device = ...,
    features_only: Literal[False] = ...,
    **fields: Unpack[NetFields],
) -> Network: ...
@overload
def create_model(
    model: str | Net,
    *,
    seed: int = ...,
    device: str | torch.device = ...,
    features_only: Literal[True],
    out_stages: tuple[int, ...] = ...,
    **fields: Unpack[NetFields],
) -> StageMaps: ...
def create_model(
    model: str | Net,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    features_only: bool = False,
    out_stages: tuple[int, ...] = (),
    **fields: object,
) -> Network | StageMaps:
    """A network with freshly drawn weights, in training mode.

    model: a name of `list_models()`, an alias such as "seresnet50", or a `Net`.
    seed: of the weights. They are drawn by name, so twins of one seed share every common weight, and the global
        random state is left alone.
    device: where the weights live; "meta" makes none.
    features_only: return the stages' maps instead of logits, as `StageMaps`; `out_stages` chooses (default: all).
        There is no head then, so neither `num_classes` nor `dropout`.
    fields: of the network's table, for example `num_classes=10, in_channels=1, se=SEConfig(reduction=8), se=None,
        shortcut="projection", stride_on="3x3", pool="pad", dropout=0.2`.

    Raises ConfigError for an unknown name, field or value, or one that would have no effect.

    >>> model = create_model("se_resnet20", num_classes=100)
    >>> sum(p.numel() for p in model.parameters())
    277945
    """
    import torch

    from senet.initial import draw_
    from senet.models.network import Network, StageMaps

    check_concrete("model", model)
    net = with_fields(model if isinstance(model, Net) else get_net(model), fields)
    if out_stages and not features_only:
        raise ConfigError("out_stages: needs features_only=True")
    for name in ("num_classes", "dropout"):
        if features_only and name in fields:
            raise ConfigError(f"{name}: has no effect with features_only=True, which has no classifier")
    # Made without memory, so that no library draws weights that ours replace.
    with torch.device("meta"):
        module = StageMaps(net, out_stages or net.stage_numbers) if features_only else Network(net)
    if torch.device(device).type != "meta":
        module.to_empty(device=device)
        draw_(module, seed)
    return module
