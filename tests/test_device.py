"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from senet.device import pick_device
from senet.errors import ConfigError


def test_names() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="device: 'mps' is not supported; expected: auto, cpu, cuda"):
        pick_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="--device: 'cuda' needs a GPU, and torch finds none"):
            pick_device("cuda", field="--device")
