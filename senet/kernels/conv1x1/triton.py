"""The 1x1 convolution with its epilogue in Triton: a matrix product [M, K] x [K, C] over channels-last, M = N P.

Imported only for a CUDA tensor, or by a test under Triton's interpreter, since Triton may not be installed.
"""
# A type checker for Python cannot follow Triton's language.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    """Tile sizes of the product: positions, output channels, input channels; and Triton's launch options."""

    m: int
    c: int
    k: int
    warps: int
    stages: int


def tiles_of(m: int, k: int, c: int, dtype: torch.dtype, processors: int) -> Tiles:
    """Choose tiles for a product [m, k] x [k, c], halved until every multiprocessor has one.

    Chosen by the size of Hopper's registers, not by timings. Few input channels: memory is the limit, and two programs
    share a multiprocessor, so that one loads while the other stores. Many: wider tiles, which load less.
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
    """`relu(s (W h + b) + e)` in one launch. Sums are float32, and the result is rounded once.

    Args:
        h: (N, K, H, W), channels-last, float32, bfloat16 or float16.
        weight: (C, K) or (C, K, 1, 1).
        bias: (C).
        s: (N, C).
        e: (N, C, H, W); copied to channels-last if it is not.
        relu: apply a ReLU.
        tiles: None chooses them.
    """
    n, k, height, width = h.shape
    c, positions = weight.shape[0], height * width
    m = n * positions
    if tiles is None:
        processors = torch.cuda.get_device_properties(h.device).multi_processor_count if h.is_cuda else 1
        tiles = tiles_of(m, k, c, h.dtype, processors)
    y = torch.empty((n, c, height, width), dtype=h.dtype, device=h.device, memory_format=torch.channels_last)
    with torch.cuda.device_of(h):
        program[(triton.cdiv(m, tiles.m) * triton.cdiv(c, tiles.c),)](
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
def program(
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
    """One tile of the product, its epilogue applied in registers."""
    # Programs that run together share GROUP row tiles and a few column tiles, so both stay in the L2 cache.
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
        # A tile within one image, as most are in large feature maps, needs one row of gates.
        first = (top + place % height) * TILE_M // P
        if first == (tl.minimum((top + place % height + 1) * TILE_M, M) - 1) // P:
            acc *= tl.load(s + first * C + cols, in_cols, 0.0).to(tl.float32)[None, :]
        else:
            acc *= tl.load(s + image[:, None] * C + cols[None, :], inside, 0.0).to(tl.float32)
    if e is not None:
        acc += tl.load(e + at, inside, 0.0).to(tl.float32)
    if RELU:
        # Not tl.maximum: a NaN stays a NaN, as in torch.
        acc = tl.where(acc < 0, 0.0, acc)
    tl.store(y + at, acc.to(y.dtype.element_ty), inside)
