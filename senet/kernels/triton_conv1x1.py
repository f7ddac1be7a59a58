"""The 1x1 convolution with its epilogue in Triton: a matrix product [M, K] x [K, C] over channels-last maps, M = N P.

Imported only where a CUDA tensor has come (or by a test under Triton's interpreter), since Triton may not be installed.
"""
# The kernel is Triton's language, which a type checker of Python cannot follow.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    """How the product is cut: positions, output and input channels per tile, and what Triton is told beside."""

    m: int
    c: int
    k: int
    warps: int
    stages: int


def tiles_of(m: int, k: int, c: int, dtype: torch.dtype, processors: int) -> Tiles:
    """Tiles for a product [m, k] x [k, c], halved until every multiprocessor has one.

    By what Hopper's registers hold, not by timings: two programs to a multiprocessor where memory is the limit (few
    input channels), so that one loads while the other stores; wider tiles, which load less, where arithmetic is.
    """
    narrow = dtype != torch.float32
    limits = (128, 128 if narrow and k >= 256 else 64, 64 if narrow else 32)
    tile_m, tile_c, tile_k = (
        max(16, min(a, triton.next_power_of_2(b))) for a, b in zip(limits, (m, c, k), strict=True)
    )
    while triton.cdiv(m, tile_m) * triton.cdiv(c, tile_c) < processors and max(tile_m, tile_c) > 32:
        tile_m, tile_c = (tile_m // 2, tile_c) if tile_m > tile_c else (tile_m, tile_c // 2)
    return Tiles(tile_m, tile_c, tile_k, 8 if tile_m * tile_c >= 128 * 64 else 4, 3)


def conv1x1(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    s: Tensor | None,
    e: Tensor | None,
    relu: bool,
    tiles: Tiles | None = None,
) -> Tensor:
    """`relu(s (W h + b) + e)` in one launch; shapes as in `conv1x1.py`.

    h: channels-last, float32, bfloat16 or float16.  e: brought to channels-last first if it is not.
    Sums are float32, and the result is rounded once.
    """
    n, k, height, width = h.shape
    c, positions = weight.shape[0], height * width
    m = n * positions
    if tiles is None:
        processors = torch.cuda.get_device_properties(h.device).multi_processor_count if h.is_cuda else 1
        tiles = tiles_of(m, k, c, h.dtype, processors)
    y = torch.empty((n, c, height, width), dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(h):
        _kernel[(triton.cdiv(m, tiles.m) * triton.cdiv(c, tiles.c),)](
            h,
            weight.reshape(c, k).contiguous(),
            None if bias is None else bias.contiguous(),
            None if s is None else s.contiguous(),
            None if e is None else e.contiguous(memory_format=torch.channels_last),
            y,
            m,
            k,
            c,
            positions,
            RELU=relu,
            TILE_M=tiles.m,
            TILE_C=tiles.c,
            TILE_K=tiles.k,
            GROUP=8,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
            enable_fp_fusion=True,
        )
    return y


@triton.jit
def _kernel(
    h,  # [M, K]
    weight,  # [C, K]
    bias,  # [C] or None
    s,  # [N, C] or None
    e,  # [M, C] or None
    y,  # [M, C]
    M,
    K,
    C,
    P,
    RELU: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_C: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    # Programs that run at one time share GROUP row tiles and a few column tiles, so both stay in the L2 cache.
    tiles_c = tl.cdiv(C, TILE_C)
    program = tl.program_id(0)
    top = program // (GROUP * tiles_c) * GROUP
    height = tl.minimum(tl.cdiv(M, TILE_M) - top, GROUP)
    place = program % (GROUP * tiles_c)
    rows = (top + place % height) * TILE_M + tl.arange(0, TILE_M)
    cols = place // height * TILE_C + tl.arange(0, TILE_C)
    ks = tl.arange(0, TILE_K)
    in_rows, in_cols = rows < M, cols < C
    image = rows // P

    acc = tl.zeros((TILE_M, TILE_C), tl.float32)
    h_at = h + rows.to(tl.int64)[:, None] * K + ks[None, :]
    w_at = weight + cols[None, :] * K + ks[:, None]
    for start in range(0, K, TILE_K):
        in_k = start + ks < K
        x = tl.load(h_at + start, in_rows[:, None] & in_k[None, :], 0.0)
        w = tl.load(w_at + start, in_k[:, None] & in_cols[None, :], 0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")

    inside = in_rows[:, None] & in_cols[None, :]
    at = rows.to(tl.int64)[:, None] * C + cols[None, :]
    if bias is not None:
        acc += tl.load(bias + cols, in_cols, 0.0).to(tl.float32)[None, :]
    if s is not None:
        # A tile within one image, as most are in large maps, needs one row of gates.
        first = (top + place % height) * TILE_M // P
        if first == (tl.minimum((top + place % height + 1) * TILE_M, M) - 1) // P:
            acc *= tl.load(s + first * C + cols, in_cols, 0.0).to(tl.float32)[None, :]
        else:
            acc *= tl.load(s + image[:, None] * C + cols[None, :], inside, 0.0).to(tl.float32)
    if e is not None:
        acc += tl.load(e + at, inside, 0.0).to(tl.float32)
    if RELU:
        # Not a maximum: a NaN stays one, as in torch.
        acc = tl.where(acc < 0, 0.0, acc)
    tl.store(y + at, acc.to(y.dtype.element_ty), inside)
