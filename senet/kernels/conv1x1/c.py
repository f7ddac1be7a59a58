"""A 1x1 convolution with the end of a block as its epilogue, in C, for float32 on a CPU.

    y = relu(s (W h + b) + e)

`torch.ops.senet.conv1x1_packed(h, w, c, b, s, e, relu)` returns y; `conv1x1_packed_(h, w, b, s, e, relu)` writes it
into e. `h` (N, K, H, W), `e` (N, C, H, W), `b` (C), `s` (N, C); `w` is packed by `pack`. There is no gradient. Wrong
shapes or dtypes raise RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import library
from senet.kernels.packed import check, define, panels

SOURCE = Path(__file__).with_name("conv1x1.c")


def available() -> bool:
    """Whether `conv1x1.c` is or can be compiled here."""
    return library(SOURCE) is not None


def pack(weight: Tensor) -> Tensor:
    """Pack a weight (C, K) or (C, K, 1, 1), float32: `(panels, K, width of a panel)`."""
    return panels(weight.reshape(weight.shape[:2]), _c().panel())


@cache
def _c() -> CDLL:
    lib = library(SOURCE)
    if lib is None:
        raise RuntimeError("conv1x1.c is not compiled on this machine")
    lib.conv1x1.argtypes = [c_void_p] * 6 + [c_int64] * 4 + [c_int] * 2
    lib.conv1x1.restype = None
    return lib


def _run(h: Tensor, w: Tensor, b: Tensor | None, s: Tensor | None, e: Tensor | None, y: Tensor, relu: bool) -> None:
    (n, c, *size), k, panel = y.shape, h.shape[1], _c().panel()
    shapes = ((h, (n, k, *size)), (w, (-(-c // panel), k, panel)), (b, (c,)), (s, (n, c)), (e, y.shape))
    check("conv1x1_packed", *shapes)
    b, s = (None if t is None else t.contiguous() for t in (b, s))
    pointers = (None if t is None else t.data_ptr() for t in (h, w, b, s, e, y))
    positions = size[0] * size[1]
    _c().conv1x1(*pointers, n * positions, positions, k, c, relu, torch.get_num_threads())


define("conv1x1_packed", "Tensor? b, Tensor? s", _run, lambda h, b, s: h.shape[2:])
