"""Devices: their names, the choice of one, and the processor's name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from senet.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[str, ...] = get_args(Device)
"""What a device option can be; "auto" is a GPU if there is one."""


def pick_device(name: str = "auto", *, field: str = "device") -> torch.device:
    """Return the device for a name of `DEVICES`; `field` is the option's name in errors.

    Raises:
        ConfigError: For other names, such as "mps", and for "cuda" without a GPU.
    """
    import torch

    if name not in DEVICES:
        raise ConfigError(f"{field}: {name!r} is not supported; expected: {', '.join(DEVICES)}")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError(f"{field}: 'cuda' needs a GPU, and torch finds none; expected: auto, cpu")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def cpu_name() -> str:
    """Return the processor's name, from /proc/cpuinfo if it exists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
