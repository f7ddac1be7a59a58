"""1x1 convolutions with the epilogue of an SE block as their epilogue on a CPU: the ops of `conv1x1.c`, float32.

    y = relu(s (W h + b) + e)

`h` (N, K, H, W) and `e` (N, C, H, W) are channels-last maps, `b` (C), `s` (N, C); `W` is packed once by `pack`. For
inference: there is no gradient.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_int64, c_void_p
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels.cc import library

SOURCE = Path(__file__).with_name("conv1x1.c")

# Defined by hand, not by `custom_op`: at batch 1 a call of the network makes dozens of these, each of some 100 us.
_library = torch.library.Library("senet", "FRAGMENT")
_library.define("conv1x1_packed(Tensor h, Tensor w, int c, Tensor? b, Tensor? s, Tensor? e, bool relu) -> Tensor")
_library.define("conv1x1_packed_(Tensor h, Tensor w, Tensor? b, Tensor? s, Tensor(a!) e, bool relu) -> ()")


def available() -> bool:
    """Whether the C kernel is or can be compiled here."""
    return library(SOURCE) is not None


def pack(weight: Tensor) -> Tensor:
    """A weight (C, K) or (C, K, 1, 1), float32, as the kernel reads it: `(panels, K, width of a panel)`."""
    return panels(weight.reshape(weight.shape[:2]), _c().panel())


def panels(weight: Tensor, width: int) -> Tensor:
    """Matrices (..., C, K) as panels of `width` rows of C, `(..., panels, K, width)`; zeros fill the last one up."""
    *others, c, k = weight.shape
    padded = F.pad(weight, (0, 0, 0, -c % width))
    return padded.reshape(*others, -1, width, k).transpose(-2, -1).contiguous()


def _c() -> CDLL:
    lib = library(SOURCE)
    if lib is None:
        raise RuntimeError("conv1x1.c is not compiled on this machine")
    return lib


def _run(h: Tensor, w: Tensor, b: Tensor | None, s: Tensor | None, e: Tensor | None, y: Tensor, relu: bool) -> None:
    n, c, height, width = y.shape
    _check(h, w, b, s, e, y)
    h = h.contiguous(memory_format=torch.channels_last)
    b = None if b is None else b.contiguous()
    s = None if s is None else s.contiguous()
    pointers = (c_void_p(None if t is None else t.data_ptr()) for t in (h, w, b, s, e, y))
    positions = height * width
    sizes = (c_int64(i) for i in (n * positions, positions, h.shape[1], c))
    _c().conv1x1(*pointers, *sizes, c_int(relu), c_int(torch.get_num_threads()))


def _check(h: Tensor, w: Tensor, b: Tensor | None, s: Tensor | None, e: Tensor | None, y: Tensor) -> None:
    """The C code believes its sizes."""
    (n, c), k, panel = y.shape[:2], h.shape[1], _c().panel()
    shapes = ((h, (n, k, *y.shape[2:])), (w, (-(-c // panel), k, panel)), (b, (c,)), (s, (n, c)), (e, y.shape))
    for t, shape in shapes:
        if t is not None and (t.shape != shape or t.dtype != torch.float32):
            raise RuntimeError(f"senet::conv1x1_packed: {tuple(t.shape)} {t.dtype} instead of {tuple(shape)} float32")


def _packed(
    h: Tensor, w: Tensor, channels: int, b: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool
) -> Tensor:
    y = _empty(h, channels)
    _run(h, w, b, s, None if e is None else e.contiguous(memory_format=torch.channels_last), y, relu)
    return y


def _empty(h: Tensor, channels: int) -> Tensor:
    return torch.empty(
        (h.shape[0], channels, *h.shape[2:]), dtype=h.dtype, device=h.device, memory_format=torch.channels_last
    )


def _packed_(h: Tensor, w: Tensor, b: Tensor | None, s: Tensor | None, e: Tensor, relu: bool) -> None:
    y = e.contiguous(memory_format=torch.channels_last)
    _run(h, w, b, s, y, y, relu)
    if y is not e:
        e.copy_(y)


_library.impl("conv1x1_packed", _packed, "CPU")
_library.impl("conv1x1_packed_", _packed_, "CPU")
torch.library.register_fake("senet::conv1x1_packed", lambda h, w, channels, b, s, e, relu: _empty(h, channels))
torch.library.register_fake("senet::conv1x1_packed_", lambda h, w, b, s, e, relu: None)
