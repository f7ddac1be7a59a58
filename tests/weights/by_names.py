"""Networks of libraries that are not installed, written down from their published names as plain functions.

The tensors are made, at random, when a layer first runs: so the state dict is that of the names and shapes used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Name = Callable[[int, int, str], str]


@dataclass
class Weights:
    """A state dict that grows as its layers are used."""

    state: dict[str, Tensor] = field(default_factory=dict)
    stream: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def take(self, name: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        """The tensor of this name, drawn between two bounds where it is new."""
        if name not in self.state:
            self.state[name] = torch.rand(shape, generator=self.stream) * (high - low) + low
        return self.state[name]

    def weight(self, name: str, *shape: int) -> Tensor:
        """A weight that keeps the size of what goes through it."""
        bound = (3 / torch.Size(shape[1:]).numel()) ** 0.5
        return self.take(f"{name}.weight", shape, -bound, bound)

    def bias(self, name: str, out: int, there: bool = True) -> Tensor | None:
        """A bias, or None."""
        return self.take(f"{name}.bias", (out,), -0.3, 0.3) if there else None

    def conv(self, x: Tensor, name: str, out: int, k: int, stride: int = 1, groups: int = 1, bias=False) -> Tensor:
        """A convolution that keeps the size, but for its stride."""
        weight = self.weight(name, out, x.shape[1] // groups, k, k)
        return F.conv2d(x, weight, self.bias(name, out, bias), stride, k // 2, 1, groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Batch norm with its running statistics."""
        c = (x.shape[1],)
        mean, var = self.take(f"{name}.running_mean", c, -0.3, 0.3), self.take(f"{name}.running_var", c, 0.5, 1.5)
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(5))
        return F.batch_norm(x, mean, var, self.take(f"{name}.weight", c, 0.5, 1.5), self.bias(name, *c))

    def linear(self, z: Tensor, name: str, out: int, bias: bool = True) -> Tensor:
        """A linear layer."""
        return F.linear(z, self.weight(name, out, z.shape[1]), self.bias(name, out, bias))


@dataclass(frozen=True, kw_only=True)
class Residual:
    """One block per stage of a residual network of some library.

    name: (stage from 1, block from 0, layer) -> name; the layers are "conv1", "norm1", ..., "down", "down_norm",
        "squeeze", "excite".  stem: (convolution, batch norm, width), one after the other.
    linear, bias: of the units.  first_stride: in a bottleneck's first 1x1, not in its 3x3.
    pool: what `max_pool2d` is told, None for none.
    """

    name: Name
    stem: tuple[tuple[str, str, int], ...]
    head: str
    mid: tuple[int, ...]
    out: tuple[int, ...]
    bottleneck: bool = True
    groups: int = 1
    halve: bool = False
    hidden: Callable[[int], int] = lambda c: c // 16
    linear: bool = False
    bias: bool = True
    first_stride: bool = False
    pool: dict | None = field(default_factory=lambda: {"padding": 1})
    wide_down: bool = False
    blocks: int = 1

    def __call__(self, w: Weights, x: Tensor) -> Tensor:
        """The logits of 1,000 classes, or of 10 without pooling."""
        small = self.pool is None
        for i, (conv, norm, width) in enumerate(self.stem):
            kernel = 3 if small or len(self.stem) > 1 else 7
            x = F.relu(w.norm(w.conv(x, conv, width, kernel, 1 if small or i else 2), norm))
        if self.pool is not None:
            x = F.max_pool2d(x, 3, 2, **self.pool)
        for stage, (mid, out) in enumerate(zip(self.mid, self.out, strict=True), start=1):
            for block in range(self.blocks):
                x = self.block(w, x, stage, block, mid, out)
        return w.linear(x.mean((2, 3)), self.head, 10 if small else 1000)

    def block(self, w: Weights, x: Tensor, stage: int, block: int, mid: int, out: int) -> Tensor:
        """One block."""

        def name(layer: str) -> str:
            return self.name(stage, block, layer)

        stride = 2 if stage > 1 and block == 0 else 1
        at_first, at_second = (stride, 1) if self.first_stride or not self.bottleneck else (1, stride)
        kernels = (1, 3, 1) if self.bottleneck else (3, 3)
        widths = (mid // 2 if self.halve else mid, mid, out) if self.bottleneck else (mid, out)
        strides, groups = (at_first, at_second, 1), (1, self.groups, 1)
        u = x
        for i, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
            u = w.norm(w.conv(u, name(f"conv{i + 1}"), width, kernel, strides[i], groups[i]), name(f"norm{i + 1}"))
            u = F.relu(u) if i < len(kernels) - 1 else u
        z = u.mean((2, 3))
        for layer, width in {"squeeze": self.hidden(out), "excite": out}.items():
            if self.linear:
                z = w.linear(z, name(layer), width, self.bias)
            else:
                z = w.conv(z[:, :, None, None], name(layer), width, 1, bias=self.bias)[:, :, 0, 0]
            z = F.relu(z) if layer == "squeeze" else torch.sigmoid(z)
        if stride > 1 or x.shape[1] != out:
            x = w.norm(
                w.conv(x, name("down"), out, 3 if self.wide_down and stride > 1 else 1, stride), name("down_norm")
            )
        return F.relu(u * z[:, :, None, None] + x)
