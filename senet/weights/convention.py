"""A naming convention is one function from our parameter names to theirs, and what their keys do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from senet.errors import CheckpointError
from senet.models.net import Net, Preprocessing

Shape = tuple[int, ...]
Settled = tuple[Net, tuple[str, ...]]
"""A table, and notes for the ledger."""

IMAGENET = Preprocessing()
"""What most libraries do: 256 pixels, the middle 224, bilinear, ImageNet's mean and deviation."""


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
    conv_units: bool = True


@lru_cache(maxsize=128)
def shapes_of(net: Net) -> Mapping[str, Shape]:
    """Name -> shape of every parameter and buffer of a network, in order; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in net.build().state_dict().items()}


class NoNames(CheckpointError):
    """A network that a convention has no names for; a library's next convention may have."""


def no_names(convention: str, net: Net) -> NoNames:
    """The error for a network that a convention has no names for."""
    unit = f" with {type(net.se).__name__} units" if net.se else ""
    return NoNames(f"{convention}: these names are not for a network of the family {net.kind!r}{unit}")


def refusal(convention: str, field: str, here: object, there: object) -> CheckpointError:
    """The error for a table that is no network of the convention's library, naming the field."""
    return CheckpointError(f"{convention}: {field} is {here!r} in this network, {there!r} in every one of theirs")
