"""Write our weights under another library's names: the inverse of loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from senet.config import field_types
from senet.errors import unknown
from senet.files import write_atomically
from senet.models.net import Net
from senet.models.network import Network
from senet.units.config import SEConfig
from senet.weights import caffe
from senet.weights.convention import Convention, NoNames, check_intact, no_names, refusal, shapes_of
from senet.weights.load import CONVENTIONS


def state_as(model: Network, convention: str) -> dict[str, Tensor]:
    """The network's tensors under the names of a library, in its shapes and orders, for its `load_state_dict`.

    Where possible they share the model's memory, as in a state dict.

    Args:
        model: The network.
        convention: The library: "timm", "cadene", "torchvision", ...

    Raises:
        CheckpointError: If the library does not build this network; the message names the field.
        ConfigError: For an unknown convention, and for a model that no longer has the tensors of its table, such as one
            with units from `insert_`.

    >>> from senet import create_model
    >>> list(state_as(create_model("se_resnet50", pool="pad", stride_on="3x3"), "timm"))[0]
    'conv1.weight'
    """
    check_intact(model)
    names = _find_convention(model.net, convention)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        value = names.permute(name, tensor, True) if names.permute else tensor
        if names.conv_units and name.endswith((".se.fc1.weight", ".se.fc2.weight")):
            value = value[:, :, None, None]
        state[names.key(name, model.net)] = value
    return state


def write_network(path: str | Path, model: Network, convention: str) -> None:
    """Write a network's weights under another library's names.

    Args:
        path: `.caffemodel`, `.safetensors`, or any other ending for a file of `torch.save`.
        model: The network.
        convention: The library.

    Raises:
        CheckpointError: If that library does not build this network (see `state_as`).
        RunError: If the file cannot be written.
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


def _find_convention(net: Net, convention: str) -> Convention:
    """The convention of that name that has names for a network of this family, if its library builds the network."""
    named = [c for c in CONVENTIONS if c.name == convention]
    if not named:
        raise unknown("convention", convention, dict.fromkeys(c.name for c in CONVENTIONS), kind="conventions")
    for names in named:
        try:
            built, _ = names.infer(net, {})
        except NoNames:
            continue
        _check_built(net, built, convention)
        return names
    raise no_names(convention, net)


def _check_built(net: Net, built: Net, convention: str) -> None:
    """Raise CheckpointError, naming the field, if the library builds another function."""
    if isinstance(net.se, SEConfig) and isinstance(built.se, SEConfig):
        rounded = replace(net, se=replace(net.se, round_to=built.se.round_to))
        # Another rounding makes no difference if it gives the same widths.
        net = rounded if shapes_of(rounded) == shapes_of(net) else net
        for field in field_types(SEConfig):
            if getattr(net.se, field) != getattr(built.se, field):
                raise refusal(convention, f"se.{field}", getattr(net.se, field), getattr(built.se, field))
    for field in field_types(type(net)):
        if getattr(net, field) != getattr(built, field):
            raise refusal(convention, field, getattr(net, field), getattr(built, field))
