"""A naming convention: a function from our parameter names to a library's, and what its names do not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from senet.errors import CheckpointError, ConfigError
from senet.models.net import Net, Preprocessing
from senet.models.network import Network
from senet.units.config import SEConfig

Shape = tuple[int, ...]
Inferred = tuple[Net, tuple[str, ...]]
"""A table, and notes for the load report."""

IMAGENET = Preprocessing()
"""The preprocessing of most libraries: 256 pixels, the central 224, bilinear, ImageNet's mean and deviation."""

INSIDE = ("module", "_orig_mod")
"""The attributes under which DataParallel and torch.compile keep the network."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """How one library names the parameters of a family of networks, and which function they stand for there.

    A library with several families has several conventions of one name.

    Attributes:
        name: Of the library, for example "timm".
        matches: Whether names are of this convention, from the shapes by name.
        key: (our name of a parameter, our table) -> the library's name; CheckpointError for a network that the
            convention has no names for.
        infer: (our table, the source's shapes) -> the table of the source's function, and notes on what the shapes
            do not tell. For no shapes, `{}`: the table of the network that the library itself builds, by which
            `state_as` checks what it may write. CheckpointError, naming the difference, if no table has that function.
        preprocessing: How the library's networks expect their images; None if the library does not say.
        images_vary: A note for the load report if this differs among the library's weights.
        permute: (our name, tensor, inverse) -> the tensor with its channels or classes in our order, or with `inverse`
            in the library's order; the tensor itself if there is nothing to do.
        infer_from_name: (inferred table, name of the file or architecture, or "") -> the table and notes, for what
            only that name tells.
        unknown_fields: (our table, name of the file or architecture, or "") -> the fields that nothing tells, and that
            keep the model's values.
        conv_units: Whether the two layers of a unit are 1x1 convolutions, (h, C, 1, 1), or linear, (h, C).
    """

    name: str
    matches: Callable[[Mapping[str, Shape]], bool]
    key: Callable[[str, Net], str]
    infer: Callable[[Net, Mapping[str, Shape]], Inferred]
    preprocessing: Preprocessing | None = IMAGENET
    images_vary: str = ""
    permute: Callable[[str, Tensor, bool], Tensor] | None = None
    infer_from_name: Callable[[Net, str], Inferred] | None = None
    unknown_fields: Callable[[Net, str], tuple[str, ...]] | None = None
    conv_units: bool = True


@lru_cache(maxsize=128)
def shapes_of(net: Net) -> Mapping[str, Shape]:
    """The shape of every parameter and buffer of a network by name, in order; nothing is allocated."""
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in net.build().state_dict().items()}


def check_unwrapped(model: object) -> None:
    """Raise ConfigError unless this is a module, and not one that DataParallel or torch.compile made around another."""
    inner = next((name for name in INSIDE if isinstance(getattr(model, name, None), nn.Module)), "")
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model: a {type(model).__name__}; expected: a torch.nn.Module")
    if inner and len(list(model.children())) == 1:
        raise ConfigError(f"model: a {type(model).__name__}; pass the network inside, its .{inner}")


def check_intact(model: object) -> None:
    """Raise ConfigError unless this is a `Network` with exactly the tensors of its table."""
    check_unwrapped(model)
    if not isinstance(model, Network):
        raise ConfigError(f"model: a {type(model).__name__} and not a Network")
    want, have = shapes_of(model.net), {name: tuple(t.shape) for name, t in model.state_dict().items()}
    if want != have:
        odd = next(name for name in (*want, *have) if want.get(name) != have.get(name))
        raise ConfigError(
            f"model: its tensors are no longer those of its table, {odd!r} differs. If insert_ put units into it: load "
            "weights before that; to write it, senet.remove_ them, or torch.save its state dict"
        )


class NoNames(CheckpointError):
    """A convention has no names for a network; another convention of the same library may have."""


def no_names(convention: str, net: Net) -> NoNames:
    """The error for a network that a convention has no names for."""
    is_unit = net.se is not None and not isinstance(net.se, SEConfig)
    what = f"{type(net.se).__name__} units" if is_unit else f"a network of the family {net.kind!r}"
    return NoNames(f"{convention}: has no names for {what}")


def refusal(convention: str, field: str, here: object, there: object) -> CheckpointError:
    """The error for a network that the library does not build, naming the field."""
    return CheckpointError(f"{convention}: {field} is {here!r} in this network and always {there!r} in {convention}")
