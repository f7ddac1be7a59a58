"""A depthwise convolution with activation and squeeze, in C, for float32 on a CPU.

    y = act(w * (g h) + b),    z = mean(y) over positions

`torch.ops.senet.depthwise(h, w, b, stride, padding, act, g=None)` returns y, `depthwise_squeeze` of the same arguments
y and z (N, C). `h` (N, C, H, W), `w` packed by `pack`, `b` (C), `padding` of height and width, `act` one of
`packed.ACTIVATIONS`, `g` gates (N, C) of h, which are factors of the sums; y is channels-last.

`expanded_depthwise(x, w1, b1, act1, w, b, stride, padding, act)` returns y and z of h = act1(w1 x + b1), a 1x1
convolution of `x` (N, I, H, W) with `w1` packed by `conv1x1.c.pack`; h is never whole in memory. There is no gradient.
Wrong shapes or dtypes raise RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL, c_int64
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, channels_last, check, empty, number, operations, scratch

SOURCE = Path(__file__).with_name("depthwise.c")

SIZES = (3, 5, 7)
STRIDES = (1, 2)


def available() -> bool:
    """Whether `depthwise.c` is or can be compiled here."""
    return library(SOURCE) is not None


def lanes() -> int:
    """The least number of channels: the numbers in a vector register."""
    return _c().lanes()


def pack(weight: Tensor) -> Tensor:
    """Pack a weight (C, 1, K, K), float32: `(K, K, C)`."""
    return weight[:, 0].permute(1, 2, 0).contiguous()


@cache
def _c() -> CDLL:
    lib = compiled(SOURCE)
    lib.scratch.restype = lib.ring.restype = c_int64
    lib.scratch.argtypes, lib.ring.argtypes = [c_int64] * 3, [c_int64] * 4
    return lib


def _size(h: Tensor, w: Tensor, stride: int, padding: list[int]) -> list[int]:
    return [(d + 2 * p - len(w)) // stride + 1 for d, p in zip(h.shape[2:], padding, strict=True)]


def _empty(
    h: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: list[int], act: str, g: Tensor | None = None
) -> Tensor:
    shape = (*h.shape[:2], *_size(h, w, stride, padding))
    return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)


def _empty_both(h: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return _empty(h, *rest), h.new_empty(h.shape[:2])  # type: ignore[arg-type]


def _check(c: int, k: int, stride: int) -> None:
    if c < lanes() or k not in SIZES or stride not in STRIDES:
        raise RuntimeError(
            f"senet::depthwise: {c} channels, kernel {k}, stride {stride}; expected: {lanes()} channels or more, "
            "kernel 3, 5 or 7, stride 1 or 2"
        )


def _run(
    h: Tensor,
    w: Tensor,
    b: Tensor | None,
    stride: int,
    padding: list[int],
    act: str,
    g: Tensor | None = None,
    z: Tensor | None = None,
) -> Tensor:
    (n, c, *size), k = h.shape, len(w)
    check("depthwise", (h, (n, c, *size)), (w, (k, k, c)), (b, (c,)), (g, (n, c)))
    _check(c, k, stride)
    y = empty((n, c, *_size(h, w, stride, padding)))
    h, b, g = channels_last(h), *(None if t is None else t.contiguous() for t in (b, g))
    room = None if z is None else scratch(_c().scratch(n, c, y.shape[2]))
    sizes = n, *size, c, *y.shape[2:], *padding
    call(_c().depthwise, (h, w, b, g, y, z, room), *sizes, k, stride, number(act), torch.get_num_threads())
    return y


def _expanded(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    act1: str,
    w: Tensor,
    b: Tensor | None,
    stride: int,
    padding: list[int],
    act: str,
) -> tuple[Tensor, Tensor]:
    (n, i, *size), (k, _, c), threads = x.shape, w.shape, torch.get_num_threads()
    check("expanded_depthwise", (x, x.shape), (w1, (-(-c // w1.shape[-1]), i, 2 * lanes())), (b1, (c,)))
    check("expanded_depthwise", (w, (k, k, c)), (b, (c,)))
    _check(c, k, stride)
    y, z = empty((n, c, *_size(x, w, stride, padding))), empty((n, c))
    b1, b = (None if t is None else t.contiguous() for t in (b1, b))
    # One block: a thread keeps one block of scratch memory.
    sums, rows = _c().scratch(n, c, y.shape[2]), _c().ring(c, y.shape[3], k, stride)
    room = scratch(sums + threads * rows)
    tensors = channels_last(x), w1, b1, w, b, y, z, room, room[sums:]
    sizes = n, *size, i, c, *y.shape[2:], *padding, k, stride
    call(_c().expanded, tensors, *sizes, number(act1), number(act), threads)
    return y, z


def _both(h: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    z = empty(h.shape[:2])
    return _run(h, *rest, z=z), z


_arguments = "Tensor h, Tensor w, Tensor? b, int stride, int[2] padding, str act, Tensor? g=None"
operations.define(f"depthwise({_arguments}) -> Tensor")
operations.define(f"depthwise_squeeze({_arguments}) -> (Tensor, Tensor)")
operations.impl("depthwise", _run, "CPU")
operations.impl("depthwise_squeeze", _both, "CPU")
torch.library.register_fake("senet::depthwise", _empty)
torch.library.register_fake("senet::depthwise_squeeze", _empty_both)
operations.define(
    "expanded_depthwise(Tensor x, Tensor w1, Tensor? b1, str act1, Tensor w, Tensor? b, int stride, int[2] padding, "
    "str act) -> (Tensor, Tensor)"
)
operations.impl("expanded_depthwise", _expanded, "CPU")


@torch.library.register_fake("senet::expanded_depthwise")
def _(x: Tensor, w1: Tensor, b1: Tensor | None, act1: str, w: Tensor, b: Tensor | None, *rest: Any) -> Any:
    return _empty_both(x.new_empty(len(x), w.shape[-1], *x.shape[2:]), w, b, *rest)
