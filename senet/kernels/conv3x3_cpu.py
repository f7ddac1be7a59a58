"""3x3 convolutions of stride 1 on a CPU in a quarter of their products: the ops of `conv3x3.c`, float32.

    y = relu(w * h + b + e)

`h` (N, K, H, W) and `e` (N, C, Y, X) are channels-last maps, `b` (C), `padding` that of height and width; `w` (C, K, 3,
3) is packed once by `pack`, four times as large then. By Winograd's algorithm F(4x4, 3x3) (Lavin and Gray,
arXiv:1509.09308): exact in real numbers, and in float32 off by 2e-7 to 8e-7 of the map's norm where oneDNN's direct sum
is off by 1e-7 with few channels and 1.2e-6 with many. A value that is not finite reaches all results of the tiles that
it is in. For inference: no gradient. Raises RuntimeError for shapes and types that do not fit.
"""

from __future__ import annotations

import threading
from ctypes import CDLL, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import library
from senet.kernels.conv1x1_cpu import panels

SOURCE = Path(__file__).with_name("conv3x3.c")

TILE = 4
"""Results of a tile, down and across."""

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials are evaluated, infinity apart."""

# As in `conv1x1_cpu`.
_library = torch.library.Library("senet", "FRAGMENT")
_library.define("conv3x3_packed(Tensor h, Tensor w, int c, int[2] padding, Tensor? b, Tensor? e, bool relu) -> Tensor")
_library.define("conv3x3_packed_(Tensor h, Tensor w, int[2] padding, Tensor? b, Tensor(a!) e, bool relu) -> ()")


def available() -> bool:
    """Whether the C kernel is or can be compiled here."""
    return library(SOURCE) is not None


def suits(weight: Tensor, positions: int, tiles: int) -> bool:
    """Whether the kernel takes this weight `(C, K, 3, 3)`, and is the faster way to so many results in so many tiles.

    positions, tiles: of all images of a batch.

    Measured against oneDNN on maps of 2 to 56 pixels: 36 products for each tile, transforms, and for weights that no
    cache keeps the time it takes to read four times as many, against 9 products for each result.
    """
    c, k = weight.shape[:2]
    if weight.dtype != torch.float32 or c % _c().lanes() or k % _c().lanes() or min(c, k) < 32:
        return False
    reading = 432 if c * k > 32768 else 0
    return 47 * tiles + reading < 9 * positions


def pack(weight: Tensor) -> Tensor:
    """A weight (C, K, 3, 3), float32, as the kernel reads it: `G w G'`, `(36, panels, K, width of a panel)`."""
    rows = [[p**i / _slope(p) for i in range(3)] for p in POINTS] + [[0.0, 0.0, 1.0]]
    g = torch.tensor(rows, dtype=torch.float64, device=weight.device)
    points = torch.einsum("ai,ckij,bj->abck", g, weight.double(), g).flatten(0, 1)
    return panels(points.float(), _c().panel())


def _slope(p: float) -> float:
    product = 1.0
    for other in POINTS:
        product *= p - other if other != p else 1
    return product


@cache
def _c() -> CDLL:
    lib = library(SOURCE)
    if lib is None:
        raise RuntimeError("conv3x3.c is not compiled on this machine")
    lib.scratch.restype = c_int64
    lib.scratch.argtypes = [c_int64] * 5 + [c_int]
    lib.conv3x3.argtypes = [c_void_p] * 6 + [c_int64] * 7 + [c_int] * 2
    lib.conv3x3.restype = None
    return lib


_held = threading.local()


def _scratch(size: int) -> Tensor:
    """Memory of this thread to work in, kept: the system would have to find fresh pages for it in every call."""
    held = getattr(_held, "room", None)
    if held is None or held.numel() < size:
        held = _held.room = torch.empty(size, dtype=torch.float32, device="cpu")
    return held


def _run(h: Tensor, w: Tensor, padding: list[int], b: Tensor | None, e: Tensor | None, y: Tensor, relu: bool) -> None:
    n, c, down, across = y.shape
    _check(h, w, b, e, y)
    h = h.contiguous(memory_format=torch.channels_last)
    b = None if b is None else b.contiguous()
    threads = torch.get_num_threads()
    room = _scratch(_c().scratch(n, down, across, h.shape[1], c, threads))
    pointers = (None if t is None else t.data_ptr() for t in (h, w, b, e, y, room))
    _c().conv3x3(*pointers, n, *h.shape[2:], h.shape[1], c, *padding, relu, threads)


def _check(h: Tensor, w: Tensor, b: Tensor | None, e: Tensor | None, y: Tensor) -> None:
    """The C code believes its sizes."""
    (n, c), k, panel = y.shape[:2], h.shape[1], _c().panel()
    shapes = ((h, (n, k, *h.shape[2:])), (w, (36, -(-c // panel), k, panel)), (b, (c,)), (e, y.shape))
    for t, shape in shapes:
        if t is not None and (t.shape != shape or t.dtype != torch.float32):
            raise RuntimeError(f"senet::conv3x3_packed: {tuple(t.shape)} {t.dtype} instead of {tuple(shape)} float32")
    lanes = _c().lanes()
    if c % lanes or k % lanes:
        raise RuntimeError(f"senet::conv3x3_packed: {k} to {c} channels; expected: multiples of {lanes}")


def _packed(h: Tensor, w: Tensor, c: int, padding: list[int], b: Tensor | None, e: Tensor | None, relu: bool) -> Tensor:
    y = _empty(h, c, padding)
    _run(h, w, padding, b, None if e is None else e.contiguous(memory_format=torch.channels_last), y, relu)
    return y


def _empty(h: Tensor, c: int, padding: list[int]) -> Tensor:
    size = [d + 2 * p - 2 for d, p in zip(h.shape[2:], padding, strict=True)]
    shape = (h.shape[0], c, *size)
    return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)


def _packed_(h: Tensor, w: Tensor, padding: list[int], b: Tensor | None, e: Tensor, relu: bool) -> None:
    y = e.contiguous(memory_format=torch.channels_last)
    _run(h, w, padding, b, y, y, relu)
    if y is not e:
        e.copy_(y)


_library.impl("conv3x3_packed", _packed, "CPU")
_library.impl("conv3x3_packed_", _packed_, "CPU")
torch.library.register_fake("senet::conv3x3_packed", lambda h, w, c, padding, b, e, relu: _empty(h, c, padding))
torch.library.register_fake("senet::conv3x3_packed_", lambda h, w, padding, b, e, relu: None)
