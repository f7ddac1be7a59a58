"""Our weights under another library's names: the inverse of loading."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from senet.config import field_types
from senet.errors import unknown
from senet.models.net import Net
from senet.models.network import Network
from senet.units.config import SEConfig
from senet.weights.convention import Convention, NoNames, check_intact, no_names, refusal, shapes_of
from senet.weights.load import CONVENTIONS


def state_as(model: Network, convention: str) -> dict[str, Tensor]:
    """The network's tensors under the names of a library, in its shapes and orders: for its `load_state_dict`.

    They share the model's memory where they can, as in a state dict.

    convention: for example "timm", "cadene", "torchvision".
    Raises CheckpointError, naming the field, where that library does not build this network; ConfigError for an unknown
    convention, and a model that is no longer what its table says, such as one with units from `insert_`.

    >>> from senet import create_model
    >>> list(state_as(create_model("se_resnet50", pool="pad", stride_on="3x3"), "timm"))[0]
    'conv1.weight'
    """
    check_intact(model)
    theirs = _writer(model.net, convention)
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        value = theirs.permute(name, tensor, True) if theirs.permute else tensor
        if theirs.conv_units and name.endswith((".se.fc1.weight", ".se.fc2.weight")):
            value = value[:, :, None, None]
        state[theirs.key(name, model.net)] = value
    return state


def _writer(net: Net, convention: str) -> Convention:
    """The convention of that name that has names for a network of this family, which its library builds."""
    named = [c for c in CONVENTIONS if c.name == convention]
    if not named:
        raise unknown("convention", convention, dict.fromkeys(c.name for c in CONVENTIONS), kind="conventions")
    for theirs in named:
        try:
            built, _ = theirs.settle(net, {})
        except NoNames:
            continue
        _check_built(net, built, convention)
        return theirs
    raise no_names(convention, net)


def _check_built(net: Net, built: Net, convention: str) -> None:
    """Raise CheckpointError, naming the field, where what the library builds is another function."""
    if isinstance(net.se, SEConfig) and isinstance(built.se, SEConfig):
        rounded = replace(net, se=replace(net.se, round_to=built.se.round_to))
        # Another rounding is no difference where it gives the same widths.
        net = rounded if shapes_of(rounded) == shapes_of(net) else net
        for field in field_types(SEConfig):
            if getattr(net.se, field) != getattr(built.se, field):
                raise refusal(convention, f"se.{field}", getattr(net.se, field), getattr(built.se, field))
    for field in field_types(type(net)):
        if getattr(net, field) != getattr(built, field):
            raise refusal(convention, field, getattr(net, field), getattr(built, field))
