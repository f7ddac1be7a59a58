"""New memory full of NaN, which remains where a kernel does not write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_of_nan() -> Iterator[None]:
    """What `torch.empty` and its relatives return is NaN, also inside of operations."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert bool(torch.empty(3).isnan().all())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
