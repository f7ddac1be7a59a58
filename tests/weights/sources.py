"""What stands in for other people's files: networks with random weights, and how outputs are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.models.network import Network

IMAGE = (2, 3, 64, 48)


@torch.no_grad()
def random_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic drawn at random, of a size that keeps the maps near one; in evaluation mode."""
    stream = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=stream) * (high - low) + low)

    for layer in module.modules():
        for name, p in layer.named_parameters(recurse=False):
            bound = (3 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.3
            draw(p, -bound, bound)
            if isinstance(layer, _BatchNorm) and name == "weight":
                draw(p, 0.5, 1.5)
        if isinstance(layer, _BatchNorm):
            draw(layer.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            draw(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            layer.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    return module.eval()


@torch.no_grad()
def gap(ours: Network, theirs: Callable[[Tensor], Tensor], shape: tuple[int, ...] = IMAGE) -> float:
    """The largest difference of the logits of a random image, over the largest logit."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    a, b = ours.eval()(image), theirs(image)
    return float((a - b).abs().max() / b.abs().max())


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts are the same: names, shapes, numbers."""
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a)
