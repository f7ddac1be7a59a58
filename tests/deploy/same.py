"""Is an optimized network the same function? Judged in float64, where rounding is small and only the algebra counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from senet.deploy.optimize import Optimized, optimize


class Fn(nn.Module):
    """A network of these layers, `forward(net, x)` being any function; so that a test is a few lines."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Each(nn.ModuleDict):
    """Networks side by side on the same images, to be captured at once: a capture costs more than they do."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {name: net(x) for name, net in self.items()}


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@torch.no_grad()
def trained(model: nn.Module) -> nn.Module:
    """As if trained: norms that do something, in float64 and eval mode."""
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors = (module.running_mean, module.bias, module.running_var, module.weight)
            for j, t in enumerate(t for t in tensors if t is not None):
                t.copy_(noise(*t.shape, seed=100 * i + j) * 0.2 + (t.mean() > 0.5))
                t.abs_() if t.mean() > 0.5 else None
    return model.double().eval()


def errors(have: Any, want: Any) -> dict[str, float]:
    """The largest difference over the largest value of each output, by its place; nests and shapes must be equal."""
    (a, of_a), (b, of_b) = tree_flatten_with_path(have), tree_flatten_with_path(want)
    assert of_a == of_b
    found = {}
    for (path, p), (_, q) in zip(a, b, strict=True):
        if not isinstance(q, Tensor):
            assert p == q, path
            continue
        assert (p.shape, p.dtype) == (q.shape, q.dtype), path
        found[keystr(path)] = float((p - q).abs().max() / q.abs().max()) if q.numel() else 0.0
    return found


def error(have: Any, want: Any) -> float:
    """The largest of `errors`."""
    return max(errors(have, want).values())


@torch.no_grad()
def same(model: nn.Module, *shape: int, batches: Sequence[int] = (1, 2, 5), bound: float = 1e-12) -> Optimized:
    """Optimize for one image of this shape; the same as the network for several batches, twice, the images kept."""
    model = trained(model)
    fast = optimize(model, noise(1, *shape))
    for n in batches:
        x = noise(n, *shape, seed=n)
        want = model(x.clone())
        for _ in range(2):
            given = x.clone()
            wrong = {place: e for place, e in errors(fast(given), want).items() if not e < bound}
            assert not wrong
            assert torch.equal(given, x)
    return fast
