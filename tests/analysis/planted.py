"""Networks whose gates are known beforehand, and images that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor, Tensor]
SLOPES = (1.0, -2.0, 0.0, 0.5, 3.0)


class Excite(nn.Module):
    """Gates `sigmoid(slope_c * mean(image))`, by two layers as anybody might write them."""

    def __init__(self, channels: int, slopes: tuple[float, ...], ends: nn.Module) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, 1, bias=False)
        self.expand = nn.Linear(1, len(slopes), bias=False)
        self.ends = ends
        with torch.no_grad():
            self.reduce.weight.fill_(1 / channels)
            self.expand.weight.copy_(torch.tensor(slopes)[:, None])

    def forward(self, u: Tensor) -> Tensor:
        s = self.ends(self.expand(self.reduce(u.mean((2, 3)))))
        return u * s[:, :, None, None]


class Planted(nn.Module):
    """Five channels, each a copy of the image's first; a unit; and logits that are means over space of some."""

    def __init__(self, slopes: tuple[float, ...] = SLOPES, ends: nn.Module | None = None) -> None:
        super().__init__()
        self.spread = nn.Conv2d(1, len(slopes), 1, bias=False)
        self.excite = Excite(len(slopes), slopes, ends or nn.Sigmoid())
        with torch.no_grad():
            self.spread.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.excite(self.spread(x)).mean((2, 3))


def images(means: Tensor) -> Tensor:
    """Images `(n, 1, 4, 4)` of these means (n,)."""
    checkers = (-1.0) ** torch.arange(16).reshape(4, 4)
    return means.reshape(-1, 1, 1, 1) + checkers


def batches(x: Tensor, targets: Tensor, size: int) -> Iterator[Batch]:
    return zip(x.split(size), targets.split(size), torch.arange(len(x)).split(size), strict=True)


def by_hook(model: nn.Module, names: list[str], x: Tensor, read: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    """What `read` makes of the inputs of some modules in a plain pass."""
    found: list[Tensor] = []
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda m, args: found.append(read(m, args[0])))
        for name in names
    ]
    with torch.no_grad():
        model.eval()(x)
    for handle in handles:
        handle.remove()
    return found


def lively_(model: nn.Module, x: Tensor) -> None:
    """Make the gates of a network as drawn differ between images: norms that know these, and large last layers."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
    with torch.no_grad():
        model.train()(x)
    for name, parameter in model.named_parameters():
        if name.endswith(("fc2.weight", "conv_expand.weight")):
            nn.init.normal_(parameter)
