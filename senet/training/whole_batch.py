"""Random numbers that a network draws in training, the same however many processes share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DrawnForAll(TorchFunctionMode):
    """While it is entered, what is drawn for each image is drawn for the whole batch, and cut to this process's images.

    That is dropout, stochastic depth and the weights of Shake-Shake, here and in networks of timm and torchvision. All
    processes must start from the same random state.

    Args:
        first: Images of the processes before this one.
        own: Images of this process.
        total: Images of all.

    >>> whole, second = DrawnForAll(0, 3, 3), DrawnForAll(1, 2, 3)
    >>> with torch.random.fork_rng(), whole:
    ...     rows = F.dropout(torch.ones(3, 2), 0.5)
    >>> with torch.random.fork_rng(), second:
    ...     bool((F.dropout(torch.ones(2, 2), 0.5) == rows[1:]).all())
    True
    """

    def __init__(self, first: int, own: int, total: int) -> None:
        super().__init__()
        self.first, self.own, self.total = first, own, total

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Draw for all where a tensor has a row for each image of this process."""
        kwargs = kwargs or {}
        if func not in DRAWN or not isinstance(args[0], Tensor) or not args[0].dim() or len(args[0]) != self.own:
            return func(*args, **kwargs)
        x: Tensor = args[0]
        rows = slice(self.first, self.first + self.own)
        whole = x.new_ones((self.total, *x.shape[1:]))
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        drawn = func(whole, *args[1:], **kwargs)[rows]
        return DRAWN[func](x, drawn)


DRAWN: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    Tensor.bernoulli_: lambda x, drawn: x.copy_(drawn),
    torch.rand_like: lambda x, drawn: drawn,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), lambda x, drawn: x * drawn),
}
"""Function of torch that draws -> what it returns for x from what was drawn for its images, of ones."""
