"""Which network a file of weights holds; and that network, built and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from senet.config import field_types
from senet.errors import CheckpointError, ConfigError
from senet.models.net import Net, with_fields
from senet.models.network import Network
from senet.models.registry import canonical_name, nets
from senet.weights import files
from senet.weights.convention import Convention, Shape, shapes_of
from senet.weights.files import Source
from senet.weights.load import COUNTER, as_source, detect, load_weights_, without_ones
from senet.weights.load_report import LoadReport
from senet.weights.native import KEPT


def identify(tensors: Mapping[str, Tensor] | Source) -> tuple[str, str]:
    """Find which named network tensors belong to, whatever its number of classes, and whose names they have.

    Returns:
        The network's name and the convention's.

    Raises:
        CheckpointError: If they belong to none, with the nearest networks.

    >>> from senet import create_model
    >>> identify(create_model("se_resnet20", num_classes=100).state_dict())
    ('se_resnet20', 'senet')
    """
    found = as_source(tensors)
    shapes = {name: tuple(t.shape) for name, t in found.tensors.items()}
    names = detect(shapes)
    differ: dict[str, int] = {}
    for name, net in nets().items():
        try:
            inferred, _ = names.infer(_with_sizes(net, names, shapes), shapes)
            differ[name] = _count_differing(inferred, names, shapes)
        except CheckpointError:
            continue
        if not differ[name]:
            return name, names.name
    nearest = sorted(differ, key=differ.__getitem__)[:3]
    near = ", ".join(f"{name} ({differ[name]} tensors differ)" for name in nearest)
    raise CheckpointError(
        f"{found.name}: no network here has these {len(shapes)} tensors of {names.name}; the nearest: {near or 'none'}"
    )


def read_network(
    source: str | Path | Source,
    *,
    name: str = "",
    convention: str | None = None,
    fields: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> tuple[str, Network, LoadReport]:
    """Build the network that a file or folder of weights holds, and load it.

    Args:
        source: What `files.read` takes.
        name: Of the network; empty: what the file states, or the named network that has these tensors, with the file's
            number of classes.
        convention: The library whose names the file has; None: found from the names.
        fields: Fields of the table, "pool" and "stride_on", for a file that does not tell them
            (`LoadReport.unknown_fields`).
        quiet: Do not print the load report.

    Returns:
        The network's name, the network in evaluation mode, and the load report.

    Raises:
        CheckpointError: If the file holds no network of ours, or not the one named.
        ConfigError: For an unknown name, and for fields that the file contradicts.
    """
    source = source if isinstance(source, Source) else files.read(source)
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
    report = load_weights_(model.to_empty(device="cpu"), source, convention=convention, quiet=quiet)
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


def _count_differing(net: Net, names: Convention, shapes: Mapping[str, Shape]) -> int:
    """How many tensors differ in name or shape."""
    want = {names.key(name, net): without_ones(shape) for name, shape in shapes_of(net).items()}
    have = {name: without_ones(shape) for name, shape in shapes.items()}
    differ = {name for name in want.keys() | have.keys() if want.get(name) != have.get(name)}
    return sum(not name.endswith(COUNTER) for name in differ)
