"""What several libraries share: the names of residual networks, `layer1.0.conv1`, and what shapes tell of the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from senet.config import UnitConfig
from senet.errors import CheckpointError
from senet.models.net import Net, ResidualNet, Shortcut
from senet.units.config import SEConfig
from senet.weights.convention import Inferred, Shape, no_names, refusal, shapes_of

Key = Callable[[str, Net], str]

IN_A_BLOCK = {
    "conv1": "conv1",
    "norm1": "bn1",
    "conv2": "conv2",
    "norm2": "bn2",
    "conv3": "conv3",
}


def layer_key(
    convention: str,
    name: str,
    net: Net,
    *,
    stem: Callable[[str, int, int], str] | None = None,
    unit: tuple[str, str] = ("se.fc1", "se.fc2"),
    root: str = "",
    head: str = "fc",
    shortcut: str = "downsample",
) -> str:
    """A library's name of a parameter of a residual network, where it counts `layer1.0` like torchvision.

    Args:
        convention: The library.
        name: Our name.
        net: Our table.
        stem: From what `stem_layer` returns to the library's name; None: `conv1` and `bn1`, for one convolution.
        unit: Its names of a unit's two layers.
        root: What stands before all its names but the classifier's.
        head: Its name of the classifier.
        shortcut: Its name of the sequence of a projection and batch norm.

    Raises:
        CheckpointError: For a network that is not residual, and for a unit without two layers.
    """
    module, _, leaf = name.rpartition(".")
    if module == "classifier":
        return f"{head}.{leaf}"
    if not isinstance(net, ResidualNet):
        raise no_names(convention, net)
    _, part, *inner = module.split(".", 3)
    if part == "stem":
        kind, index, count = stem_layer(".".join(inner), net)
        if stem is None and count > 1:
            raise CheckpointError(f"{convention}: has no names for a stem of {count} convolutions")
        return root + (stem(kind, index, count) if stem else {"conv": "conv1", "norm": "bn1"}[kind]) + f".{leaf}"
    number, block, child = int(part.removeprefix("stage")) - 1, int(inner[0].removeprefix("block")) - 1, inner[1]
    last = "bn2" if net.stages[number - 1].block == "basic" else "bn3"
    names = IN_A_BLOCK | {"norm": last, "se.fc1": unit[0], "se.fc2": unit[1]}
    names |= {"shortcut.conv": f"{shortcut}.0", "shortcut.norm": f"{shortcut}.1"}
    if child not in names:
        raise no_names(convention, net)
    return f"{root}layer{number}.{block}.{names[child]}.{leaf}"


def stem_layer(name: str, net: ResidualNet) -> tuple[str, int, int]:
    """Split a layer of our stem, "before.norm1" or "conv": its kind, its number, and the number of convolutions."""
    count = len(net.stem.before) + 1
    before, _, layer = name.rpartition(".")
    return (layer[:-1], int(layer[-1]), count) if before else (layer, count, count)


def infer_residual(
    convention: str,
    key: Key,
    net: Net,
    shapes: Mapping[str, Shape],
    *,
    pool: Literal["ceil", "pad"] = "pad",
    stride_on: Literal["1x1", "3x3"] = "3x3",
    round_to: int = 1,
    bias: bool = True,
    units: tuple[bool, ...] = (True, False),
    shortcuts: tuple[Shortcut, ...] = ("projection",),
) -> Inferred:
    """The table of a library's residual network: `pool` and `stride_on` as given, the rest as the shapes say; no notes.

    Args:
        convention: The library.
        key: From our names to the library's.
        net: Our table.
        shapes: Of the file's tensors; empty: what the library itself builds.
        pool: The library's pooling.
        stride_on: The convolution that has the stride in its bottlenecks.
        round_to: What the hidden widths of its units are rounded to.
        bias: Whether the layers of its units have biases.
        units: Whether its networks have units: (True,), (False,) or either.
        shortcuts: Those that the library builds; the first where the file has no projection, if it is not one itself.

    Raises:
        CheckpointError: For a network that is not residual, or whose units the library does not have.
    """
    if not isinstance(net, ResidualNet):
        raise no_names(convention, net)
    if not shapes and (net.se is not None) not in units:
        raise refusal(convention, "se", net.se, None if net.se else SEConfig(round_to=round_to, bias=bias))
    strided = key(f"features.stage{net.stage_numbers[-1]}.block1.shortcut.conv.weight", net)
    projection, shortcut = net.projection, net.shortcut if net.shortcut in shortcuts else shortcuts[0]
    if strided in shapes:
        projection, shortcut = "3x3" if shapes[strided][-1] == 3 else "1x1", "projection"
    elif shapes:
        shortcut = shortcuts[0]
    inferred = replace(
        net,
        pool=net.pool if net.pool == "none" else pool,
        stride_on=stride_on if any(row.block == "bottleneck" for row in net.stages) else net.stride_on,
        shortcut=shortcut,
        projection=projection if shortcut == "projection" else "1x1",
        se=infer_unit(convention, key, net, shapes, round_to=round_to, bias=bias),
    )
    return inferred, ()


def refuse_blur(net: Net, name: str) -> Inferred:
    """Refuse a network that blurs where it strides, by the name of its file or architecture: its tensors do not tell.

    Returns:
        The table as it is, and a note for plain networks whose name is not known.

    Raises:
        CheckpointError: For timm's `resnetblur50`, `resnetaa50` and their like.
    """
    if found := re.search(r"resnex?t(blur|aa)", name):
        raise CheckpointError(f"{name!r} blurs where it strides ({found[1]}), which no table here can do")
    if net.se is None and not re.search(r"resnex?t", name):
        return net, (
            "blur pooling (timm's resnetblur50) and dilation cannot be told by these names: taken to be absent",
        )
    return net, ()


def infer_unit(
    convention: str, key: Key, net: Net, shapes: Mapping[str, Shape], *, round_to: int = 1, bias: bool = True
) -> UnitConfig | None:
    """The unit of a library's networks: biases and rounding of the hidden widths as the shapes say.

    A source without units leaves the network's unit as it is. Without shapes, `round_to` and `bias` are what the
    library builds.

    Raises:
        CheckpointError: For a unit that the library does not have, and hidden widths that no rounding explains.
    """
    se = net.se
    layers = [name for name in shapes_of(net) if name.endswith(".se.fc1.weight")]
    if se is None or (shapes and not any(key(name, net) in shapes for name in layers)):
        return se
    if not isinstance(se, SEConfig):
        raise no_names(convention, net)
    for field, theirs in {"placement": "standard", "squeeze": "avg", "gate": "sigmoid"}.items():
        if getattr(se, field) != theirs:
            raise refusal(convention, f"se.{field}", getattr(se, field), theirs)
    if not shapes:
        return replace(se, round_to=round_to, bias=bias, stages=None)
    return unit_by_shapes(convention, key, net, shapes, se, round_to=round_to)


def unit_by_shapes(
    convention: str, key: Key, net: Net, shapes: Mapping[str, Shape], se: SEConfig, *, round_to: int = 1
) -> SEConfig:
    """The unit with the biases and the rounding that the shapes show; unchanged if they show no unit.

    The unit's own rounding is tried first, then the library's `round_to`, then none.

    Raises:
        CheckpointError: If no rounding gives the hidden widths.
    """
    channels = {n.removesuffix(".weight"): s[1] for n, s in shapes_of(net).items() if n.endswith(".se.fc1.weight")}
    theirs = {layer: shapes.get(key(f"{layer}.weight", net), ()) for layer in channels}
    hidden = {layer: shape[0] for layer, shape in theirs.items() if shape}
    if not hidden:
        return se
    se = replace(se, bias=any(key(f"{layer}.bias", net) in shapes for layer in hidden))
    for rounding in dict.fromkeys((se.round_to, round_to, 1)):
        rounded = replace(se, round_to=rounding)
        if all(rounded.hidden(channels[layer]) == width for layer, width in hidden.items()):
            return rounded
    layer = next(layer for layer, width in hidden.items() if se.hidden(channels[layer]) != width)
    raise CheckpointError(
        f"{convention}: {hidden[layer]} hidden units over {channels[layer]} channels in {layer}, which no rounding of "
        f"se.reduction={se.reduction} gives"
    )
