"""Max and mean pooling over windows, and concatenation, in C, for float32 on a CPU.

`torch.ops.senet.pool(h, kernel, stride, padding, ceil, mean, counts)` is `F.max_pool2d`, or `F.avg_pool2d` with
`count_include_pad=counts` if `mean`, of `h` (N, C, H, W), with pairs of height and width and `ceil_mode=ceil`.
`torch.ops.senet.cat(h, act)` is `act(torch.cat(h, 1))` of such feature maps, with one of `packed.ACTIVATIONS`. y is
channels-last. There is no gradient. Wrong sizes or dtypes raise RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, channels_last, check, empty, number, operations

SOURCE = Path(__file__).with_name("pool.c")


def available() -> bool:
    """Whether `pool.c` is or can be compiled here."""
    return library(SOURCE) is not None


@cache
def _c() -> CDLL:
    return compiled(SOURCE)


def _size(d: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    size = (d + 2 * padding - kernel + (stride - 1 if ceil else 0)) // stride + 1
    # A window begins inside of the feature map or its first padding.
    return size - 1 if ceil and (size - 1) * stride >= d + padding else size


def _sizes(h: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool) -> list[int]:
    return [_size(*given, ceil) for given in zip(h.shape[2:], kernel, stride, padding, strict=True)]


def _run(
    h: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool, mean: bool, counts: bool
) -> Tensor:
    n, c, height, width = h.shape
    check("pool", (h, h.shape))
    is_right = min(*kernel, *stride) > 0 and all(0 <= 2 * p <= k for p, k in zip(padding, kernel, strict=True))
    size = _sizes(h, kernel, stride, padding, ceil) if is_right else [0, 0]
    if min(size) < 1:
        raise RuntimeError(
            f"senet::pool: {height}x{width}, kernel {kernel}, stride {stride}, padding {padding}; expected: kernel and "
            "stride of 1 or more, padding up to half of the kernel, and a window inside"
        )
    y = empty((n, c, *size))
    sizes = n, height, width, c, *size, *kernel, *stride, *padding, mean, counts, torch.get_num_threads()
    call(_c().pool, (channels_last(h), y), *sizes)
    return y


def _empty(
    h: Tensor, kernel: list[int], stride: list[int], padding: list[int], ceil: bool, mean: bool, counts: bool
) -> Tensor:
    shape = (*h.shape[:2], *_sizes(h, kernel, stride, padding, ceil))
    return torch.empty(shape, dtype=h.dtype, device=h.device, memory_format=torch.channels_last)


def _cat(h: list[Tensor], act: str) -> Tensor:
    n, _, *size = h[0].shape
    for t in h:
        check("cat", (t, (n, t.shape[1], *size)))
    y = empty((n, sum(t.shape[1] for t in h), *size))
    at = 0
    for t in h:
        sizes = n * size[0] * size[1], t.shape[1], y.shape[1], at, number(act)
        call(_c().place, (channels_last(t), y), *sizes, torch.get_num_threads())
        at += t.shape[1]
    return y


operations.define(
    "pool(Tensor h, int[2] kernel, int[2] stride, int[2] padding, bool ceil, bool mean, bool counts) -> Tensor"
)
operations.impl("pool", _run, "CPU")
torch.library.register_fake("senet::pool", _empty)
operations.define("cat(Tensor[] h, str act) -> Tensor")
operations.impl("cat", _cat, "CPU")
torch.library.register_fake("senet::cat", lambda h, act: torch.cat(h, 1).contiguous(memory_format=torch.channels_last))
