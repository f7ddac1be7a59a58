"""Whole networks in and out of files: which one a file holds, built and loaded; and a network as another's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes

from senet.config import field_types
from senet.errors import ConfigError
from senet.files import write_atomically
from senet.models.net import Net, with_fields
from senet.models.network import Network
from senet.models.registry import canonical_name, nets
from senet.weights import caffe, files
from senet.weights.export import state_as
from senet.weights.files import Source
from senet.weights.load import detect, identify, load_weights_, sized
from senet.weights.load_report import Ledger
from senet.weights.native import KEPT


def read_network(
    source: str | Path | Source,
    *,
    name: str = "",
    convention: str | None = None,
    fields: Mapping[str, str] | None = None,
    quiet: bool = False,
) -> tuple[str, Network, Ledger]:
    """What a file or folder of weights holds (`files.read`): the network's name, it in evaluation mode, the account.

    name: of the network; empty: what the file says, or the named network whose tensors these are, with the file's
        number of classes.
    fields: of the network's table, "pool" and "stride_on", where the source cannot tell them (`Ledger.untold`).
    convention, quiet: as in `load_weights_`.

    Raises CheckpointError where it is none of the networks here, or not that one; ConfigError for an unknown name, and
    for fields that are otherwise in the source.
    """
    source = source if isinstance(source, Source) else files.read(source)
    if source.net is not None and not name:
        name, net = name_of(source.net), source.net
    else:
        name = canonical_name(name) if name else identify(source)[0]
        shapes = {key: tuple(t.shape) for key, t in source.tensors.items()}
        net = sized(nets()[name], detect(shapes, convention, name=source.name), shapes)
    fields = dict(fields or {})
    with torch.device("meta"):
        model = Network(with_fields(net, fields))
    ledger = load_weights_(model.to_empty(device="cpu"), source, convention=convention, quiet=quiet)
    for field, value in fields.items():
        if (told := getattr(model.net, field)) != value:
            raise ConfigError(f"{field}: {value!r} has no effect, {source.name} says {told!r}")
    return name, model.eval(), ledger


def write_network(path: str | Path, model: Network, convention: str) -> None:
    """Write a network's weights under another library's names: `.caffemodel`, `.safetensors`, else a file of torch's.

    Raises CheckpointError where that library does not build this network (`state_as`), RunError where it cannot be
    written.
    """
    path = Path(path)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state_as(model, convention).items()}
    if path.suffix == ".caffemodel":
        caffe.write(path, state)
    elif path.suffix == ".safetensors":
        data = to_bytes(state, metadata={"format": "pt"})
        write_atomically(path, lambda file: file.write(data))
    else:
        write_atomically(path, lambda file: torch.save(state, file))


def name_of(net: Net) -> str:
    """The name of the first network here that has these sizes, whatever its classes, words and switches.

    >>> from senet import get_net
    >>> from dataclasses import replace
    >>> name_of(replace(get_net("se_resnet50"), pool="pad", num_classes=10))
    'se_resnet50'
    """

    def sizes(table: Net) -> list[object]:
        values = [getattr(table, name) for name in field_types(type(table)) if name not in (*KEPT, "se")]
        return [type(table), table.se is None, *(v for v in values if not isinstance(v, (str, bool)))]

    return next((name for name, known in nets().items() if sizes(known) == sizes(net)), net.kind)
