"""What torch.empty gives, as a test wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Buffers(TorchFunctionMode):
    """New buffers come from a function, given torch's own and its arguments.

    `torch.empty` itself is never replaced: the first `with torch.device(...)` of a process would then take the
    replacement for one of torch's ways to make a tensor, and torch.empty for none, for as long as the process lives.
    """

    def __init__(self, make: Callable[..., Tensor]) -> None:
        super().__init__()
        self.make = make

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.empty, torch.empty_like):
            return self.make(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))
