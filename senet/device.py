"""Where to compute, and what it is called."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from senet.errors import ConfigError


def pick_device(name: str = "auto", *, field: str = "device") -> torch.device:
    """The device that a name means: "auto" is a GPU where there is one, "cpu" and "cuda" are themselves.

    Raises ConfigError, naming `field`, for "cuda" without a GPU.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError(f"{field}: 'cuda' is asked for and torch finds no GPU; use 'auto' or 'cpu'")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def cpu_name() -> str:
    """The processor's name as Linux says it, elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
