"""The processes that train or measure one network together, as torch.distributed connects them; one alone is number 0.

Whether there are several is asked of torch.distributed, so a group that somebody else made counts too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def world() -> int:
    """How many processes there are; 1 where none are connected."""
    dist = _connected()
    return dist.get_world_size() if dist else 1


def rank() -> int:
    """Which of them this one is, from 0; number 0 writes files and prints."""
    dist = _connected()
    return dist.get_rank() if dist else 0


def share(n: int, rank: int, world: int) -> slice:
    """Which of n things in order are a process's: all processes have as many, give or take one.

    >>> [share(10, rank, 4) for rank in range(4)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 7, None), slice(7, 10, None)]
    """
    return slice(n * rank // world, n * (rank + 1) // world)


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in order; every process must call this. Tensors must be on the CPU."""
    dist = _connected()
    if not dist or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Return when every process has come here."""
    gathered(None)


@contextmanager
def first_alone() -> Iterator[None]:
    """Run the body in process 0, and in the others when that is done: what it downloads is there for them."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def _connected() -> Any:
    """torch.distributed if it connects processes, else None."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
