"""Find the weights in what people save: mappings of names to tensors, at any depth, and the prefixes of their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from senet.errors import CheckpointError, unknown
from senet.weights.convention import INSIDE, Shape

AVERAGED = frozenset({"ema", "swa", "average", "averaged", "avg", "shadow", "polyak"})
"""Words of a key that holds averaged weights."""

NO_WEIGHTS = re.compile(r"optim|.*optimizer|.*sched|grad|loops$|.*scaler", re.IGNORECASE)
"""Keys beside the weights whose tensors belong to training alone."""

OF_TRAINING = re.compile(r"(^|[._])(loss|criteri|metric|n_averaged$|num_updates$|(ema_)?decay$)", re.IGNORECASE)
"""Names of tensors that a loss, a metric or an average keeps; no network computes with them."""

BUFFERS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors that lie in one mapping or list inside a file.

    Attributes:
        keys: Those that lead to it, none for the file itself.
        tensors: By name.
        others: The keys beside them whose values hold no tensors.
        named: Whether the keys are names; False for a list.
    """

    keys: tuple[Any, ...]
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    named: bool = True

    @property
    def path(self) -> str:
        """The keys, joined by dots."""
        return ".".join(map(str, self.keys))

    @property
    def expression(self) -> str:
        """The keys as they stand behind the file's content in Python."""
        return "".join(f"[{key!r}]" for key in self.keys)

    @property
    def is_averaged(self) -> bool:
        """Whether the names say that these are a moving average, or an average of checkpoints."""
        return "n_averaged" in self.tensors or _says_averaged(self.path)

    def __str__(self) -> str:
        """Return where they are and how many: "'model_ema' (12 tensors)"."""
        where = repr(self.path) if self.keys else "at the top"
        return f"{where} ({len(self.tensors)} tensors{'' if self.named else ' without names'})"


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, or an array of numbers as one; None for everything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        # A file's arrays may be read-only, or have the other byte order.
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    return None


def find(data: Any) -> list[Weights]:
    """All tensors in nested mappings and lists, but for the states of optimizers and the like.

    Weights and their average in one mapping, told apart by a prefix, are two.
    """
    return [part for weights in _walk(data, (), set()) for part in _split(weights)]


def _walk(data: Any, keys: tuple[Any, ...], seen: set[int]) -> Iterator[Weights]:
    if id(data) in seen:
        return
    seen.add(id(data))
    if isinstance(data, (list, tuple)):
        is_pairs = all(isinstance(x, (list, tuple)) and len(x) == 2 and isinstance(x[0], str) for x in data)
        data = dict(data) if is_pairs else dict(enumerate(data))
    # An optimizer's state dict.
    if not isinstance(data, Mapping) or "param_groups" in data:
        return
    inner = {key: value for key, value in data.items() if isinstance(value, (Mapping, list, tuple))}
    values = {key: as_tensor(value) for key, value in data.items() if key not in inner}
    for named in (True, False):
        tensors = {str(k): t for k, t in values.items() if t is not None and isinstance(k, str) is named}
        if tensors:
            others = tuple(str(key) for key, tensor in values.items() if tensor is None)
            yield Weights(keys=keys, tensors=tensors, others=others, named=named)
    for key, value in inner.items():
        if not NO_WEIGHTS.match(str(key)):
            yield from _walk(value, (*keys, key), seen)


def _says_averaged(path: str) -> bool:
    return not AVERAGED.isdisjoint(re.split(r"[._]", path.lower()))


def _split(weights: Weights) -> Iterator[Weights]:
    """Separate the average that a training module keeps beside its network, such as "model_ema.module.conv1.weight"."""
    for word, group in groups(weights.tensors).items():
        rest = {name: t for name, t in weights.tensors.items() if not name.startswith(f"{word}.")}
        if not _says_averaged(word):
            continue
        own = {name.removeprefix("module.") for name in group} - {"n_averaged"}
        ends = {name[i:] for name in rest for i in (0, *(m.end() for m in re.finditer(r"\.", name)))}
        if 2 * len(own & ends) > len(own):
            yield Weights(keys=(*weights.keys, word), tensors=group)
            # The network beside it has a prefix too, or none.
            last, inner = next(iter(groups(rest).items()), ("", {}))
            if len(inner) == len(rest):
                yield Weights(keys=(*weights.keys, last), tensors=inner, others=weights.others)
            else:
                yield Weights(keys=weights.keys, tensors=rest, others=weights.others)
            return
    yield weights


def groups(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors by the first word of their names, which is removed; the largest group first."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        word, dot, rest = name.partition(".")
        if dot:
            found.setdefault(word, {})[rest] = tensor
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def choose(found: list[Weights], wanted: str, name: str) -> tuple[Weights, tuple[str, ...]]:
    """The mapping that is loaded, and notes on where it was and what else there is.

    It is the one at the path `wanted`. Without that it is an average, if there is one, else the largest, the first of
    equals. An average of the parameters alone has the other one's statistics of batch norm.

    Args:
        found: Not empty.
        wanted: A path, or "".
        name: How messages name the file.

    Raises:
        CheckpointError: If none has names.
        ConfigError: If none is at that path.
    """
    named = [weights for weights in found if weights.named]
    if not named:
        raise CheckpointError(f"{name}: holds no weights: its tensors have no names, {found[0]}")
    if wanted:
        inside = [Weights(keys=(*w.keys, word), tensors=t) for w in named for word, t in groups(w.tensors).items()]
        chosen = next((w for w in (*named, *inside) if w.path == wanted), None)
        if chosen is None:
            raise unknown(f"{name}#", wanted, [w.path for w in named if w.path], kind="mappings in the file")
    else:
        most = max(len(weights.tensors) for weights in named)
        large = [weights for weights in named if 2 * len(weights.tensors) >= most]
        chosen = next((w for w in large if w.is_averaged), None) or max(large, key=lambda w: len(w.tensors))
    notes = [f"taken from {chosen.path!r}"] if chosen.path else []
    last = max((w for w in named if not w.is_averaged), key=lambda w: len(w.tensors), default=None)
    if chosen.is_averaged and last is not None and not wanted:
        own, theirs = without(chosen.tensors, INSIDE)[1], without(last.tensors, INSIDE)[1]
        lacking = theirs.keys() - own.keys()
        if lacking and own.keys() < theirs.keys() and all(n.endswith(BUFFERS) for n in lacking):
            chosen = Weights(keys=chosen.keys, tensors={n: own.get(n, t) for n, t in theirs.items()})
            notes.append(f"it has parameters alone: {len(lacking)} statistics of batch norm are from {last.path!r}")
    if chosen.others:
        notes.append(f"no tensors: {', '.join(map(repr, chosen.others))}")
    if rest := [w for w in found if w.path != chosen.path]:
        other = next((f"; FILE#{w.path} takes another" for w in rest if w.named and w.keys), "")
        notes.append(f"also in the file: {', '.join(map(str, rest))}{other}")
    return chosen, tuple(notes)


def without(tensors: Mapping[str, Tensor], words: tuple[str, ...]) -> tuple[str, dict[str, Tensor]]:
    """Remove these words from the front of the names, while most names begin with one of them.

    Returns:
        The prefix that was removed, and the tensors whose names had it.
    """
    prefix, inner = "", dict(tensors)
    while inner:
        word, group = next(iter(groups(inner).items()), ("", {}))
        if word not in words or 2 * len(group) <= len(inner):
            break
        prefix, inner = f"{prefix}{word}.", group
    return prefix, inner


def prefix_of(tensors: Mapping[str, Tensor], accepts: Callable[[Mapping[str, Shape]], bool]) -> str | None:
    """The shortest prefix behind which the names are accepted, of the most tensors first; None if there is none."""
    level = {"": dict(tensors)}
    for _ in range(5):
        for prefix, inner in level.items():
            if accepts({name: tuple(t.shape) for name, t in inner.items()}):
                return prefix
        level = {f"{prefix}{word}.": group for prefix, inner in level.items() for word, group in groups(inner).items()}
    return None
