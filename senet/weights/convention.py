"""A naming convention is one function from our parameter names to theirs, and what their keys do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from senet.errors import CheckpointError, ConfigError
from senet.models.net import Net, Preprocessing
from senet.models.network import Network
from senet.units.config import SEConfig

Shape = tuple[int, ...]
Settled = tuple[Net, tuple[str, ...]]
"""A table, and notes for the ledger."""

IMAGENET = Preprocessing()
"""What most libraries do: 256 pixels, the middle 224, bilinear, ImageNet's mean and deviation."""

INSIDE = ("module", "_orig_mod")
"""Where DataParallel and torch.compile keep the network."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How one library names the parameters of its networks, and which function they stand for there.

    A library may have several of one name, for its families differ; what a function says of itself in its messages
    is that name.

    name: what the convention is called, for example "timm".
    sees: whether these are its keys.
    key: our name of a parameter -> theirs; CheckpointError for a network that it has no names for.
    settle: our table and the source's shapes -> the table of the source's function, and notes on what the shapes
        cannot say. Without shapes, `{}`: the table of what the library itself builds, which is how `state_as` knows
        what it may write. CheckpointError, naming the difference, where no table of ours is that function.
    preprocessing: how its networks want their images; None: that is not the library's to say.  images_vary: a note for
        the ledger where this differs among the library's weights, and no config.json says it.
    permute: (our name, tensor, inverse) -> the tensor with channels, classes or axes in our order, or back in theirs;
        the tensor itself where there is nothing to do.
    by_file: (settled table, name of the file or architecture, or "") -> the table and notes, for what only that tells.
    untold: (our table, name of the file or architecture, or "") -> the fields that neither names nor shapes nor that
        name tell, and that stay the model's.
    conv_units: whether the two layers of a unit are 1x1 convolutions there, (h, C, 1, 1), or linear, (h, C).
    """

    name: str
    sees: Callable[[Mapping[str, Shape]], bool]
    key: Callable[[str, Net], str]
    settle: Callable[[Net, Mapping[str, Shape]], Settled]
    preprocessing: Preprocessing | None = IMAGENET
    images_vary: str = ""
    permute: Callable[[str, Tensor, bool], Tensor] | None = None
    by_file: Callable[[Net, str], Settled] | None = None
    untold: Callable[[Net, str], tuple[str, ...]] | None = None
    conv_units: bool = True


@lru_cache(maxsize=128)
def shapes_of(net: Net) -> Mapping[str, Shape]:
    """Name -> shape of every parameter and buffer of a network, in order; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in net.build().state_dict().items()}


def check_intact(model: object) -> None:
    """Raise ConfigError for what is no `Network`, and for one whose tensors are no longer those of its table."""
    if not isinstance(model, Network):
        inner = next((f"; give the network inside, its .{name}" for name in INSIDE if hasattr(model, name)), "")
        raise ConfigError(f"model: a {type(model).__name__} and not a Network{inner}")
    want, have = shapes_of(model.net), {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if want != have:
        odd = next(name for name in (*want, *have) if want.get(name) != have.get(name))
        raise ConfigError(
            f"model: is no longer what its table says, {odd!r} differs. Where insert_ put units into it: load weights "
            "before; to write it, senet.remove_ them, or torch.save its state dict"
        )


class NoNames(CheckpointError):
    """A network that a convention has no names for; a library's next convention may have."""


def no_names(convention: str, net: Net) -> NoNames:
    """The error for a network that a convention has no names for."""
    is_unit = net.se is not None and not isinstance(net.se, SEConfig)
    what = f"{type(net.se).__name__} units" if is_unit else f"a network of the family {net.kind!r}"
    return NoNames(f"{convention}: has no names for {what}")


def refusal(convention: str, field: str, here: object, there: object) -> CheckpointError:
    """The error for a table that is no network of the convention's library, naming the field."""
    return CheckpointError(f"{convention}: {field} is {here!r} in this network, {there!r} in every one of theirs")
