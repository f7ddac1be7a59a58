"""The machine: hardware, versions, load, and its limits for copying and multiplying."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any, NamedTuple

import torch

from senet.device import cpu_name

LIBRARIES = ("senet", "torch", "torchvision", "timm", "triton")


class Limits(NamedTuple):
    """The best rates of the machine.

    Attributes:
        bytes_per_s: Bytes read and written by a large copy.
        flops_per_s: Operations of a matrix product.
    """

    bytes_per_s: float
    flops_per_s: float


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions (None if not installed) and the date."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else "cpu",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "torch": torch.__version__,
        "cuda": torch.version.cuda if is_cuda else None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def load() -> float | None:
    """Return the load average of the last minute; None if the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def measure_limits(device: torch.device, dtype: torch.dtype, *, mib: int = 256) -> Limits:
    """Measure the best of several copies and matrix products, with the current number of threads.

    Args:
        device: Where.
        dtype: Type of the matrices.
        mib: Size of each of two buffers; larger than the caches.
    """
    source = torch.ones(mib << 20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    n = 8192 if device.type == "cuda" else 1024
    a = torch.full((n, n), 0.5, dtype=dtype, device=device)
    return Limits(
        2 * source.numel() / _best_seconds(lambda: target.copy_(source), device),
        2 * n**3 / _best_seconds(lambda: a @ a, device),
    )


def _best_seconds(run: Callable[[], Any], device: torch.device, repeats: int = 7) -> float:
    return min(seconds_per_call(run, 1, device) for _ in range(repeats))


def seconds_per_call(
    run: Callable[[], Any], calls: int, device: torch.device, clock: Callable[[], float] = perf_counter
) -> float:
    """Return the mean time of `calls` consecutive calls, by `clock` on a CPU, between two events on a GPU."""
    if device.type != "cuda":
        start = clock()
        for _ in range(calls):
            run()
        return (clock() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    for _ in range(calls):
        run()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000 / calls
