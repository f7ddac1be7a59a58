"""What the convolutions in C share: operations of torch.library whose weights are packed ahead.

Defined by hand, not by `torch.library.custom_op`: a network calls dozens of these, and at batch 1 each call of a custom
operation costs some 100 us more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_library = torch.library.Library("senet", "FRAGMENT")


def define(name: str, options: str, run: Callable[..., None], size: Callable[..., Sequence[int]]) -> None:
    """Define `senet::NAME(h, w, c, OPTIONS, e, relu) -> y`, and `senet::NAME_(h, w, OPTIONS, e, relu)`, which writes e.

    `h` (N, K, H, W) and `e` (N, C, Y, X) are feature maps of any layout, `w` are packed weights. y is channels-last.

    Args:
        name: of the operation.
        options: schema of its further arguments.
        run: `run(h, w, *options, e, y, relu)` writes y; h, e and y are channels-last, and y may be e.
        size: `size(h, *options)` is the height and width of y.
    """
    _library.define(f"{name}(Tensor h, Tensor w, int c, {options}, Tensor? e, bool relu) -> Tensor")
    _library.define(f"{name}_(Tensor h, Tensor w, {options}, Tensor(a!) e, bool relu) -> ()")

    def empty(h: Tensor, c: int, *options: Any) -> Tensor:
        shape = len(h), c, *size(h, *options)
        return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)

    def out_of_place(h: Tensor, w: Tensor, c: int, *rest: Any) -> Tensor:
        *options, e, relu = rest
        y = empty(h, c, *options)
        run(channels_last(h), w, *options, None if e is None else channels_last(e), y, relu)
        return y

    def in_place(h: Tensor, w: Tensor, *rest: Any) -> None:
        *options, e, relu = rest
        y = channels_last(e)
        run(channels_last(h), w, *options, y, y, relu)
        if y is not e:
            e.copy_(y)

    _library.impl(name, out_of_place, "CPU")
    _library.impl(f"{name}_", in_place, "CPU")
    torch.library.register_fake(f"senet::{name}", lambda h, w, c, *rest: empty(h, c, *rest[:-2]))
    torch.library.register_fake(f"senet::{name}_", lambda *_: None)


def channels_last(x: Tensor) -> Tensor:
    """x in channels-last."""
    return x.contiguous(memory_format=torch.channels_last)


def check(name: str, *tensors: tuple[Tensor | None, Sequence[int]]) -> None:
    """Raise RuntimeError unless each tensor is None or float32 of its shape: C code trusts its sizes."""
    for t, shape in tensors:
        if t is not None and (t.shape != shape or t.dtype != torch.float32):
            raise RuntimeError(f"senet::{name}: {tuple(t.shape)} {t.dtype}; expected: {tuple(shape)} torch.float32")


def panels(weight: Tensor, width: int) -> Tensor:
    """Cut matrices (..., C, K) into panels of `width` rows, `(..., panels, K, width)`; zeros fill the last one."""
    *others, c, k = weight.shape
    padded = F.pad(weight, (0, 0, 0, -c % width))
    return padded.reshape(*others, -1, width, k).transpose(-2, -1).contiguous()
