"""A 3x3 convolution of stride 1 by Winograd's algorithm, with sum and activation, in C, for float32 on a CPU.

    y = act(w * h + b + e)

`torch.ops.senet.conv3x3_packed(h, w, c, groups, padding, b, e, act)` returns y; `conv3x3_packed_(h, w, groups, padding,
b, e, act)` writes it into e. `h` (N, K, H, W), `e` (N, C, Y, X), `b` (C), `padding` of height and width; `w` is packed
by `pack` and four times as large as before. There is no gradient. Wrong shapes or dtypes raise RuntimeError.

F(4x4, 3x3) takes a quarter of the products (Lavin and Gray, arXiv:1509.09308). It is exact in real numbers. In float32
the error is 2e-7 to 8e-7 of the norm of the feature map; that of oneDNN's direct sum is 1e-7 with few channels and
1.2e-6 with many. A value that is not finite reaches all results of its tiles.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_int64
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, check, define, panels, scratch

SOURCE = Path(__file__).with_name("conv3x3.c")

TILE = 4
"""Height and width of a tile of results."""

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Points at which the polynomials are evaluated, besides infinity."""


def available() -> bool:
    """Whether `conv3x3.c` is or can be compiled here."""
    return library(SOURCE) is not None


def lanes() -> int:
    """Numbers in a vector register."""
    return _c().lanes()


def scratch_size(n: int, height: int, width: int, k: int, c: int, groups: int, threads: int) -> int:
    """How many floats a call works in, for an output of this height and width."""
    return _c().scratch(n, height, width, k, c, groups, threads)


def pack(weight: Tensor, groups: int = 1) -> Tensor:
    """Pack a weight (C, K / groups, 3, 3), float32: `G w G'`, `(36, groups, panels, K / groups, width of a panel)`."""
    rows = [[p**i / _slope(p) for i in range(3)] for p in POINTS] + [[0.0, 0.0, 1.0]]
    g = torch.tensor(rows, dtype=torch.float64, device=weight.device)
    points = torch.einsum("ai,ckij,bj->abck", g, weight.double(), g).flatten(0, 1)
    return panels(points.float().unflatten(1, (groups, -1)), _panel(len(weight) // groups, groups))


def _panel(c: int, groups: int) -> int:
    return _c().vectors(c, groups) * _c().lanes()


def _slope(p: float) -> float:
    product = 1.0
    for other in POINTS:
        product *= p - other if other != p else 1
    return product


@cache
def _c() -> CDLL:
    lib = compiled(SOURCE)
    lib.scratch.restype = c_int64
    lib.scratch.argtypes = [c_int64] * 6 + [c_int]
    lib.vectors.argtypes = [c_int64] * 2
    lib.vectors.restype = c_int64
    return lib


def _run(
    h: Tensor, w: Tensor, groups: int, padding: list[int], b: Tensor | None, e: Tensor | None, y: Tensor, act: int
) -> None:
    (n, c, height, width), k = y.shape, h.shape[1]
    if groups < 1 or c % groups or k % groups:
        raise RuntimeError(f"senet::conv3x3_packed: {groups} groups of {k} to {c} channels; expected: a common divisor")
    panel = _panel(c // groups, groups)
    packed = 36, groups, -(-(c // groups) // panel), k // groups, panel
    check("conv3x3_packed", (h, (n, k, *h.shape[2:])), (w, packed), (b, (c,)), (e, y.shape))
    b = None if b is None else b.contiguous()
    threads = torch.get_num_threads()
    room = scratch(scratch_size(n, height, width, k, c, groups, threads))
    call(_c().conv3x3, (h, w, b, e, y, room), n, *h.shape[2:], k, c, groups, *padding, act, threads)


def _size(h: Tensor, groups: int, padding: list[int], b: Tensor | None) -> list[int]:
    return [d + 2 * p - 2 for d, p in zip(h.shape[2:], padding, strict=True)]


define("conv3x3_packed", "int groups, int[2] padding, Tensor? b", _run, _size)
