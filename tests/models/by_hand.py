"""What forward passes written out by hand have in common, and the check that a network learns in all its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randomised(model: Any) -> Any:
    """In float64 and evaluation mode, every parameter and statistic random, so that no part can be left out unseen."""
    model.double().eval()
    with torch.no_grad():
        for i, (name, tensor) in enumerate(model.state_dict().items()):
            if name.endswith("num_batches_tracked"):
                continue
            scale = 0.4 if tensor.dim() == 1 else tensor[0].numel() ** -0.5
            tensor.copy_(scale * draw(*tensor.shape, seed=i))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model


def norm(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    """Batch norm in evaluation, its formula written out."""
    mean, var, scale, shift = (
        w[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def gate(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    """Eqs. 2-4."""
    hidden = torch.relu(x.mean((2, 3)) @ w[f"{name}.fc1.weight"].T + w[f"{name}.fc1.bias"])
    s = torch.sigmoid(hidden @ w[f"{name}.fc2.weight"].T + w[f"{name}.fc2.bias"])
    return x * s[:, :, None, None]
