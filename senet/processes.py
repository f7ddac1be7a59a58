"""The processes that train or measure one network together, as torch.distributed connects them; one alone is number 0.

Whether there are several is asked of torch.distributed, so a group that somebody else made counts too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
"""What torchrun tells each process that it starts; some of them alone are left-overs of an earlier start."""

NO_JOB = "none"
"""torchrun's name of a job that was given none (--rdzv-id)."""


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun started this process and others."""
    is_whole = all(environment.get(name) for name in TORCHRUN)
    return is_whole and environment["WORLD_SIZE"].isdecimal() and int(environment["WORLD_SIZE"]) > 1


def has_tasks(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether srun started this process and others. A batch script has SLURM_NTASKS too, and is one process."""
    return environment.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "0", "1")


def is_restarted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or SLURM started the same command before, and it ended unfinished."""
    return any(environment.get(name, "0") != "0" for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def job(environment: Mapping[str, str] = os.environ) -> str:
    """torchrun's name of the job that this process is of, "" for none: it stays when processes are started again."""
    name = environment.get("TORCHELASTIC_RUN_ID", "") if all(map(environment.get, TORCHRUN)) else ""
    return "" if name == NO_JOB else name


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


def counted(n: int) -> list[int]:
    """The numbers of all processes, in order, faster than by `gathered`."""
    dist = _connected()
    if not dist or dist.get_world_size() == 1:
        return [n]
    import torch

    own = torch.tensor([n], dtype=torch.int64, device="cpu")
    found = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return [int(value) for value in found]


def merged(lines: Iterable[str]) -> list[str]:
    """The lines of all processes, each once."""
    return list(dict.fromkeys(line for part in gathered(list(lines)) for line in part))


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
