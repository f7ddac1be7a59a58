"""Load weights into any module by the module's own names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice

import torch
from torch import nn

from senet.errors import CheckpointError, ConfigError
from senet.insert import InsertedUnit
from senet.models.net import Preprocessing
from senet.weights.files import Source
from senet.weights.load_report import LoadReport
from senet.weights.mappings import OF_TRAINING

COUNTER = "num_batches_tracked"


def load_by_name_(
    model: nn.Module,
    found: Source,
    *,
    allow: Sequence[str] = (),
    drawn: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
) -> LoadReport:
    """Load tensors into the parameters and buffers of the same names, in place.

    Units from `insert_` keep their values where the source has none for them.

    Args:
        model: Any module.
        found: The tensors.
        allow: What may be missing, unused or of another shape; see `load_weights_`.
        drawn: What keeps its values even where the source has it: names, or prefixes of names.
        preprocessing: How the images are expected, where the source does not say.

    Raises:
        CheckpointError: If tensors are missing, unused or of another shape; the module is then unchanged.
        ConfigError: For an `allow` that names no tensor.
    """
    state = model.state_dict()
    units = [name for name, module in model.named_modules() if isinstance(module, InsertedUnit)]
    same = [name for name in found.tensors if name in state and not is_named(name, drawn)]
    wrong = [name for name in same if found.tensors[name].shape != state[name].shape]
    absent = [name for name in state if name not in found.tensors and not _is_counter(name, found.tensors)]
    unused = [name for name in found.tensors if name not in state]
    for pattern in allow:
        if not any(is_named(name, [pattern]) for name in (*state, *unused, *found.outside)):
            raise ConfigError(f"allow: {pattern!r} names no tensor of the network or of {found.name}")
    permitted = [*allow, *drawn]
    faults = [
        f"{len(names)} {what} ({first(names)})"
        for names, what in (
            ([n for n in absent if not is_named(n, [*permitted, *units])], "missing"),
            ([n for n in unused if not (OF_TRAINING.search(n) or is_named(n, permitted))], "unused"),
            ([n for n in wrong if not is_named(n, allow)], "of another shape"),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{found.name}: not the weights of this {type(model).__name__}: of {len(state)} tensors "
            f"{', '.join(faults)}. Nothing was loaded; name in `allow` what may keep its values"
        )
    loaded = [name for name in same if name not in wrong]
    with torch.no_grad():
        for name in loaded:
            state[name].copy_(found.tensors[name])
    skipped = [name for name in found.tensors if name not in loaded]
    kept = [name for name in state if name in absent or name in skipped]
    fresh = [name for name in kept if is_named(name, units)]
    note = f"{len(fresh)} of the new tensors are of units, which change no output until they learn"
    return LoadReport(
        source=found.name,
        convention="its own library",
        loaded=tuple(loaded),
        missing=tuple(kept),
        unused=(*skipped, *found.outside),
        notes=(*found.notes, *([note] if fresh else [])),
        preprocessing=found.preprocessing or preprocessing,
    )


def first(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and dots if there are more."""
    few = list(islice(names, most + 1))
    return ", ".join(few[:most]) + ", ..." * (len(few) > most)


def is_named(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these, or begins with one of them and a dot."""
    return any(fnmatchcase(name, p) or fnmatchcase(name, f"{p}.*") for p in patterns)


def _is_counter(name: str, tensors: Collection[str]) -> bool:
    """Whether it is a batch counter that a file without counters leaves out."""
    norm, _, leaf = name.rpartition(".")
    return leaf == COUNTER and f"{norm}.running_mean" in tensors
