"""A convolution of few channels in a group, with sum and activation, in C, for float32 on a CPU.

    y = act(w * h + b + e)

`torch.ops.senet.direct(h, w, c, groups, kernel, stride, padding, planar, order, b, e, act)` returns y; `direct_` of the
same arguments but c writes it into e. `h` (N, K, H, W), `e` (N, C, Y, X), `b` (C); `kernel` and `padding` are a height
and a width; `w` is packed by `pack`, planar or not. If planar, h is read with its own strides. `order` (K), int32, if
given, are the channels of h that stand for its own; not if planar. There is no gradient. Wrong shapes or dtypes raise
RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL, c_int64
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, channels_last, check, define, panels, scratch

SOURCE = Path(__file__).with_name("direct.c")


def available() -> bool:
    """Whether `direct.c` is or can be compiled here."""
    return library(SOURCE) is not None


def pack(weight: Tensor, groups: int, *, planar: bool = False) -> Tensor:
    """Pack a weight (C, K / groups, A, B), float32: `(groups, panels, A B K / groups, width of a panel)`.

    planar: for an input whose channels lie apart, such as a contiguous one.
    """
    rows = (weight if planar else weight.permute(0, 2, 3, 1)).flatten(1).unflatten(0, (groups, -1))
    return panels(rows, _panel(len(weight) // groups))


def merged(weight: Tensor, groups: int) -> tuple[Tensor, int]:
    """The weight and the number of groups with neighbouring groups as one, so that each fills a vector register.

    Weights between channels of different groups are 0.
    """
    c, k = len(weight) // groups, weight.shape[1]
    together = max((n for n in range(1, groups + 1) if groups % n == 0 and n * c <= _c().lanes()), default=1)
    if together == 1:
        return weight, groups
    new = weight.new_zeros(len(weight), together, k, *weight.shape[2:])
    channels = torch.arange(len(weight))
    new[channels, channels // c % together] = weight
    return new.flatten(1, 2), groups // together


def _panel(c: int) -> int:
    return _c().vectors(c) * _c().lanes()


@cache
def _c() -> CDLL:
    lib = compiled(SOURCE)
    lib.vectors.argtypes = [c_int64]
    lib.vectors.restype = lib.scratch.restype = c_int64
    return lib


def _run(
    h: Tensor,
    w: Tensor,
    groups: int,
    kernel: list[int],
    stride: int,
    padding: list[int],
    planar: bool,
    order: Tensor | None,
    b: Tensor | None,
    e: Tensor | None,
    y: Tensor,
    act: int,
) -> None:
    (n, k, *size), c = h.shape, y.shape[1]
    if min(groups, stride, *kernel) < 1 or c % groups or k % groups:
        raise RuntimeError(
            f"senet::direct: {groups} groups of {k} to {c} channels, kernel {kernel}, stride {stride}; expected: a "
            "common divisor of the channels, and 1 or more"
        )
    panel = _panel(c // groups)
    packed = groups, -(-(c // groups) // panel), kernel[0] * kernel[1] * (k // groups), panel
    check("direct", (h, h.shape), (w, packed), (b, (c,)), (e, y.shape))
    if order is not None and (planar or order.shape != (k,) or order.dtype != torch.int32 or not _is_order(order)):
        raise RuntimeError(
            f"senet::direct: order {tuple(order.shape)} {order.dtype}; expected: a permutation ({k},) int32"
        )
    b = None if b is None else b.contiguous()
    h = h if planar else channels_last(h)
    sizes = (
        n,
        *size,
        k,
        c,
        groups,
        *kernel,
        stride,
        *padding,
        *y.shape[2:],
        *h.stride(),
        planar,
        act,
        torch.get_num_threads(),
    )
    room = scratch(_c().scratch((c_int64 * (7 + len(sizes)))(*[0] * 7, *sizes)))
    call(_c().direct, (h, w, b, e, y, room, order), *sizes)


def _is_order(order: Tensor) -> bool:
    return torch.equal(order.sort().values, torch.arange(len(order), dtype=torch.int32))


def _size(
    h: Tensor, groups: int, kernel: list[int], stride: int, padding: list[int], planar: bool, *_: object
) -> list[int]:
    return [(d + 2 * p - a) // stride + 1 for d, p, a in zip(h.shape[2:], padding, kernel, strict=True)]


options = "int groups, int[2] kernel, int stride, int[2] padding, bool planar, Tensor? order, Tensor? b"
define("direct", options, _run, _size, any_strides=True)
