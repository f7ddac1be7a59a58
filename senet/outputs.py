"""What networks return: a tensor, or tensors in tuples, dictionaries, dataclasses and other objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from senet.errors import ConfigError


def _parts(value: Any) -> dict[Any, Any] | None:
    """Return the parts of a container or object by their names; None for anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, list)):
        return dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        return dict(vars(value))
    return None


def _leaves(value: Any, name: str = "", around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    parts = None if isinstance(value, Tensor) else _parts(value)
    if parts is None:
        yield name, value
    # Objects may refer to themselves.
    elif id(value) not in around:
        for key, part in parts.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key), (*around, id(value)))


def named_tensors(out: Any) -> list[tuple[str, Tensor]]:
    """List the tensors in any nesting of containers and objects, with names such as "logits" and "aux.0".

    >>> [name for name, _ in named_tensors({"logits": torch.zeros(1), "aux": [torch.zeros(1)], "loss": None})]
    ['logits', 'aux.0']
    """
    return [(name, leaf) for name, leaf in _leaves(out) if isinstance(leaf, Tensor)]


def plain_values(out: Any) -> list[tuple[str, Any]]:
    """List the numbers and texts in any nesting of containers and objects, with their names."""
    return [(name, leaf) for name, leaf in _leaves(out) if isinstance(leaf, (int, float, str))]


def fill(like: Any, leaves: Iterator[Any], *, plain: bool = False) -> Any:
    """Copy a nesting of containers and objects with new tensors, in the order of `named_tensors`.

    Args:
        like: What a network returned. Values that are not tensors stay.
        leaves: The new tensors.
        plain: Whether to make dictionaries of objects, dataclasses and named tuples, and None of other values.

    >>> fill({"a": torch.zeros(1), "b": [torch.zeros(1), "c"]}, iter([1, 2]))
    {'a': 1, 'b': [2, 'c']}
    """
    if isinstance(like, Tensor):
        return next(leaves)
    parts = _parts(like)
    if parts is None or not tensors(like):
        return None if plain else like
    new = {key: fill(part, leaves, plain=plain) for key, part in parts.items()}
    if isinstance(like, (tuple, list)) and not hasattr(like, "_fields"):
        return (list if isinstance(like, list) else tuple)(new.values())
    if plain or type(like) is dict:
        return new
    if isinstance(like, tuple):
        return like._make(new.values())  # type: ignore[attr-defined]
    result = copy(like)
    for key, part in new.items():
        if isinstance(like, Mapping):
            result[key] = part
        else:
            object.__setattr__(result, key, part)
    return result


def tensors(out: Any) -> list[Tensor]:
    """List the tensors in any nesting of containers and objects."""
    return [t for _, t in named_tensors(out)]


def logits_of(out: Any) -> Tensor:
    """Return a classifier's logits: its output, its `.logits`, or the only tensor `(N, K)` in it.

    Raises:
        ConfigError: If there is none, or more than one.

    >>> logits_of({"logits": torch.zeros(2, 10), "features": torch.zeros(2, 8, 4, 4)}).shape
    torch.Size([2, 10])
    """
    if isinstance(out, Tensor):
        return out
    found = dict(named_tensors(out))
    if "logits" in found:
        return found["logits"]
    flat = [t for t in found.values() if t.dim() == 2]
    if len(flat) != 1:
        raise ConfigError(
            f"model: returns {describe(out)}; expected: logits (N, K), or an object with `.logits` or one such tensor"
        )
    return flat[0]


def describe(value: Any) -> str:
    """Describe a value in a few words for a message: a tensor by shape and type, a container by what is in it.

    >>> describe((torch.zeros(2, 3), 5))
    'a tuple (0: (2, 3) float32, 1: 5)'
    """
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    parts = _parts(value)
    if not parts or not tensors(value):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}..., a {type(value).__name__}"
    inside = ", ".join(f"{name}: {describe(part)}" for name, part in list(parts.items())[:4])
    return f"a {type(value).__name__} ({inside}{', ...' if len(parts) > 4 else ''})"


def reason(error: BaseException | str | None) -> str:
    """Return the first line of an error, or of its text, or its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
