"""A 1x1 convolution between two ends of a block, in C, for float32 on a CPU.

    y = act(s (W (g h) + b) + e)

`torch.ops.senet.conv1x1_packed(h, w, c, g, b, s, e, act)` returns y; `conv1x1_packed_(h, w, g, b, s, e, act)` writes it
into e. `h` (N, K, H, W) is multiplied by its gates `g` (N, K) in a core's cache; `e` (N, C, H, W), `b` (C), `s` (N, C);
`w` is packed by `pack`, or, where `takes_fast`, by `pack_fast`. `linear_packed(h, w, c, b, act)` is a fully connected
layer: `h` (N, K) or (N, K, 1, 1), y (N, C). There is no gradient. Wrong shapes or dtypes raise RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_int64
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, check, define, empty, number, operations, panels, scratch

SOURCE = Path(__file__).with_name("conv1x1.c")


def available() -> bool:
    """Whether `conv1x1.c` is or can be compiled here."""
    return library(SOURCE) is not None


def pack(weight: Tensor) -> Tensor:
    """Pack a weight (C, K) or (C, K, 1, 1), float32: `(panels, K, width of a panel)`."""
    return panels(weight.reshape(weight.shape[:2]), _c().panel())


def takes_fast(weight: Tensor) -> bool:
    """Whether Strassen's algorithm takes a weight (C, K, ...): its halves are whole panels."""
    return weight.shape[1] % 2 == 0 and len(weight) % (2 * _c().panel()) == 0


def pack_fast(weight: Tensor) -> Tensor:
    """The seven factors of a weight in Strassen's algorithm, each packed: `(7, panels, K / 2, width of a panel)`."""
    c, k = weight.shape[:2]
    # Of B, (K, C): the transposed halves.
    (b11, b21), (b12, b22) = (half.reshape(c // 2, k).split(k // 2, 1) for half in weight.split(c // 2))
    factors = b11 + b22, b11, b12 - b22, b21 - b11, b22, b11 + b12, b21 + b22
    return panels(torch.stack(factors), panel())


def panel() -> int:
    """Channels of a panel, two vector registers."""
    return _c().panel()


@cache
def _c() -> CDLL:
    lib = compiled(SOURCE)
    lib.scratch.restype = c_int64
    lib.scratch.argtypes = [c_int64] * 4 + [c_int] * 2
    lib.fast_scratch.restype = c_int64
    lib.fast_scratch.argtypes = [c_int64] * 3 + [c_int]
    return lib


def _run(
    h: Tensor, w: Tensor, g: Tensor | None, b: Tensor | None, s: Tensor | None, e: Tensor | None, y: Tensor, act: int
) -> None:
    (n, c, *size), k, panel = y.shape, h.shape[1], _c().panel()
    is_fast = w.dim() == 4
    if is_fast and (k % 2 or c % (2 * panel)):
        raise RuntimeError(
            f"senet::conv1x1_packed: {k} to {c} channels; expected by Strassen's algorithm: an even number to a "
            f"multiple of {2 * panel}"
        )
    packed = (7, c // 2 // panel, k // 2, panel) if is_fast else (-(-c // panel), k, panel)
    check("conv1x1_packed", (h, (n, k, *size)), (w, packed), (g, (n, k)), (b, (c,)), (s, (n, c)), (e, y.shape))
    positions, threads = size[0] * size[1], torch.get_num_threads()
    size = (
        _c().fast_scratch(n * positions, positions, k, threads)
        if is_fast
        else _c().scratch(n * positions, positions, k, c, g is not None, threads)
    )
    room = scratch(size) if size else None
    g, b, s = (None if t is None else t.contiguous() for t in (g, b, s))
    call(_c().conv1x1, (h, w, g, b, s, e, y, room), n * positions, positions, k, c, act, threads, is_fast)


def _linear(h: Tensor, w: Tensor, c: int, b: Tensor | None, act: str) -> Tensor:
    n, k = h.shape[:2]
    y = empty((n, c))
    _run(h.reshape(n, k, 1, 1), w, None, b, None, None, y.view(n, c, 1, 1), number(act))
    return y


define("conv1x1_packed", "Tensor? g, Tensor? b, Tensor? s", _run, lambda h, g, b, s: h.shape[2:])
operations.define("linear_packed(Tensor h, Tensor w, int c, Tensor? b, str act) -> Tensor")
operations.impl("linear_packed", _linear, "CPU")
torch.library.register_fake("senet::linear_packed", lambda h, w, c, b, act: h.new_empty(len(h), c))
