"""Which network a file of weights holds; and that network, built and loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from senet.config import field_types
from senet.errors import CheckpointError, ConfigError
from senet.models.net import Net, with_fields
from senet.models.network import Network
from senet.models.registry import canonical_name, nets
from senet.weights.convention import Convention, Shape, shapes_of
from senet.weights.files import Source
from senet.weights.load import COUNTER, as_source, detect, load_weights_, without_ones
from senet.weights.load_report import LoadReport
from senet.weights.mappings import OF_TRAINING
from senet.weights.native import KEPT


class _Names(NamedTuple):
    name: str
    convention: str


class Identified(_Names):
    """The network's name and the convention's, and in `notes` what names and shapes cannot tell."""

    notes: tuple[str, ...] = ()


def identify(tensors: Mapping[str, Any] | nn.Module | Source) -> Identified:
    """Find which named network tensors belong to, whatever its number of classes, and whose names they have.

    Tensors beside the network, such as a loss's, do not matter.

    Returns:
        The network's name, the convention's, and notes.

    Raises:
        CheckpointError: If they belong to none, with the nearest networks; and if the file's name says that they are
            another function, such as timm's `resnetblur50`.

    >>> from senet import create_model
    >>> name, convention = identify(create_model("se_resnet20", num_classes=100).state_dict())
    >>> name, convention
    ('se_resnet20', 'senet')
    """
    found = as_source(tensors)
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    names = detect(shapes, name=found.name)
    differ: dict[str, int] = {}
    fitting: dict[str, Net] = {}
    for name, net in nets().items():
        try:
            inferred, _ = names.infer(_with_sizes(net, names, shapes), shapes)
            wrong, extra = _compare(inferred, names, shapes)
        except CheckpointError:
            continue
        differ[name] = wrong + len(extra)
        # A module of another name stands beside the network; of a known one, it belongs to a larger network.
        if not wrong and not {name.partition(".")[0] for name in extra} & _words(inferred, names):
            fitting[name] = inferred
    if fitting:
        # Of caffe's names, whose layers have no common first word, those of a smaller network fit too.
        name = min(fitting, key=lambda name: differ[name])
        _, notes = names.infer_from_name(fitting[name], found.hint) if names.infer_from_name else (None, ())
        identified = Identified(name, names.name)
        identified.notes = notes
        return identified
    nearest = sorted(differ, key=differ.__getitem__)[:3]
    near = ", ".join(f"{name} ({differ[name]} tensors differ)" for name in nearest)
    raise CheckpointError(
        f"{found.name}: no network here has these {len(shapes)} tensors of {names.name}; the nearest: {near or 'none'}"
    )


def read_network(
    source: str | Path | Mapping[str, Any] | nn.Module | Source,
    *,
    name: str = "",
    convention: str | None = None,
    fields: Mapping[str, str] | None = None,
    allow: Sequence[str] = (),
    quiet: bool = False,
) -> tuple[str, Network, LoadReport]:
    """Build the network that a file or folder of weights holds, and load it.

    Args:
        source: What `load_weights_` takes.
        name: Of the network; empty: what the file states, or the named network that has these tensors, with the file's
            number of classes.
        convention: The library whose names the file has; None: found from the names.
        fields: Fields of the table, such as "pool" and "stride_on", for a file that does not tell them
            (`LoadReport.unknown_fields`).
        allow: As in `load_weights_`.
        quiet: Do not print the load report.

    Returns:
        The network's name, the network in evaluation mode, and the load report.

    Raises:
        CheckpointError: If the file holds no network of ours, or not the one named.
        ConfigError: For an unknown name, and for fields that the file contradicts.
    """
    source = as_source(source)
    if source.header is not None and not name:
        net = source.header.model
        name = name_of(net)
    else:
        name = canonical_name(name) if name else identify(source)[0]
        shapes = {key: tuple(t.shape) for key, t in source.tensors.items()}
        net = _with_sizes(nets()[name], detect(shapes, convention, name=source.name), shapes)
    fields = dict(fields or {})
    with torch.device("meta"):
        model = Network(with_fields(net, fields))
    report = load_weights_(model.to_empty(device="cpu"), source, convention=convention, allow=allow, quiet=quiet)
    for field, value in fields.items():
        if (stated := getattr(model.net, field)) != value:
            raise ConfigError(f"{field}: {value!r} has no effect, {source.name} says {stated!r}")
    return name, model.eval(), report


def name_of(net: Net) -> str:
    """The name of the first network here of these sizes; classes, string options and switches may differ.

    >>> from senet import get_net
    >>> from dataclasses import replace
    >>> name_of(replace(get_net("se_resnet50"), pool="pad", num_classes=10))
    'se_resnet50'
    """

    def sizes(table: Net) -> list[object]:
        values = [getattr(table, name) for name in field_types(type(table)) if name not in (*KEPT, "se")]
        return [type(table), table.se is None, *(v for v in values if not isinstance(v, (str, bool)))]

    return next((name for name, known in nets().items() if sizes(known) == sizes(net)), net.kind)


def _with_sizes(net: Net, names: Convention, shapes: Mapping[str, Shape]) -> Net:
    """The table with the number of classes and of input channels that the shapes show."""
    outputs = shapes.get(names.key("classifier.weight", net), (0,))[0]
    stem = next(name for name, shape in shapes_of(net).items() if len(shape) == 4)
    inputs = shapes.get(names.key(stem, net), (0, net.in_channels))[1]
    return replace(net, num_classes=outputs, in_channels=inputs)


def _compare(net: Net, names: Convention, shapes: Mapping[str, Shape]) -> tuple[int, list[str]]:
    """How many of the network's tensors are missing or of another shape, and the tensors beside them."""
    wrong, used = 0, set()
    for ours, want in shapes_of(net).items():
        key = names.key(ours, net)
        used.add(key)
        have = shapes.get(key)
        if have is not None and names.permute:
            have = tuple(names.permute(ours, torch.empty(have, device="meta"), False).shape)
        wrong += not key.endswith(COUNTER) and (have is None or without_ones(have) != without_ones(want))
    return wrong, [name for name in shapes if name not in used and not OF_TRAINING.search(name)]


def _words(net: Net, names: Convention) -> set[str]:
    """The first words of a network's names in a convention."""
    return {names.key(ours, net).partition(".")[0] for ours in shapes_of(net)}
