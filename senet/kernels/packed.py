"""What the convolutions in C share: operations of torch.library whose weights are packed ahead.

Defined by hand, not by `torch.library.custom_op`: a network calls dozens of these, and at batch 1 each call of a custom
operation costs some 100 us more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int64
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels.cc import parallel

operations = torch.library.Library("senet", "FRAGMENT")

ACTIVATIONS = ("none", "relu", "relu6", "hardswish", "silu", "gelu", "sigmoid", "hardsigmoid")
"""Activations that the kernels in C apply to their results, by their numbers in `floats.h`."""

_kept = threading.local()


def define(
    name: str,
    options: str,
    run: Callable[..., None],
    size: Callable[..., Sequence[int]],
    *,
    any_strides: bool = False,
) -> None:
    """Define `senet::NAME(h, w, c, OPTIONS, e, act) -> y`, and `senet::NAME_(h, w, OPTIONS, e, act)`, which writes e.

    `h` (N, K, H, W) and `e` (N, C, Y, X) are feature maps of any layout, `w` are packed weights or gates, `act` is one
    of `ACTIVATIONS`. y is channels-last.

    Args:
        name: of the operation.
        options: schema of its further arguments; "" for none.
        run: `run(h, w, *options, e, y, act)` writes y, where act is a number; h, e and y are channels-last, and y may
            be e.
        size: `size(h, *options)` is the height and width of y.
        any_strides: whether run takes h of any strides.
    """
    options = f"{options}, " if options else ""
    operations.define(f"{name}(Tensor h, Tensor w, int c, {options}Tensor? e, str act) -> Tensor")
    operations.define(f"{name}_(Tensor h, Tensor w, {options}Tensor(a!) e, str act) -> ()")

    def given(h: Tensor) -> Tensor:
        return h if any_strides else channels_last(h)

    def fake(h: Tensor, w: Tensor, c: int, *rest: Any) -> Tensor:
        shape = len(h), c, *size(h, *rest[:-2])
        return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)

    def out_of_place(h: Tensor, w: Tensor, c: int, *rest: Any) -> Tensor:
        *options, e, act = rest
        y = empty((len(h), c, *size(h, *options)))
        run(given(h), w, *options, None if e is None else channels_last(e), y, number(act))
        return y

    def in_place(h: Tensor, w: Tensor, *rest: Any) -> None:
        *options, e, act = rest
        y = channels_last(e)
        run(given(h), w, *options, y, y, number(act))
        if y is not e:
            e.copy_(y)

    operations.impl(name, out_of_place, "CPU")
    operations.impl(f"{name}_", in_place, "CPU")
    torch.library.register_fake(f"senet::{name}", fake)
    torch.library.register_fake(f"senet::{name}_", lambda *_: None)


def number(act: str) -> int:
    """Number of an activation; RuntimeError if there is none of this name."""
    try:
        return ACTIVATIONS.index(act)
    except ValueError:
        raise RuntimeError(f"act: {act!r} is not known; expected: one of {', '.join(ACTIVATIONS)}") from None


def call(function: Any, tensors: Sequence[Tensor | None], *numbers: int) -> None:
    """Call a kernel of a library with addresses, 0 for None, and numbers; or record it."""
    recorder = getattr(_kept, "recorder", None)
    if recorder is not None:
        recorder.add(function, tensors, numbers)
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    function((c_int64 * (len(addresses) + len(numbers)))(*addresses, *numbers), parallel())


def empty(shape: Sequence[int]) -> Tensor:
    """New memory for results of this shape, float32, of four axes as channels-last."""
    recorder = getattr(_kept, "recorder", None)
    if recorder is not None:
        return recorder.empty(shape)
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=torch.float32, device="cpu", memory_format=layout)


def scratch(size: int) -> Tensor:
    """Scratch memory of this thread, floats. It is kept: the system would have to find fresh pages for each call."""
    recorder = getattr(_kept, "recorder", None)
    if recorder is not None:
        return recorder.empty((size,))
    kept = getattr(_kept, "scratch", None)
    if kept is None or kept.numel() < size:
        kept = _kept.scratch = torch.empty(size, dtype=torch.float32, device="cpu")
    return kept


@contextmanager
def recording(recorder: Any) -> Iterator[None]:
    """In this thread, add calls to `recorder` too, and take memory from it."""
    _kept.recorder = recorder
    try:
        yield
    finally:
        _kept.recorder = None


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
