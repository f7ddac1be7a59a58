"""Where to compute."""

from __future__ import annotations

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
