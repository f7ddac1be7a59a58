"""The passes of `reference.py` in Triton: the same functions, for CUDA tensors.

A feature map may be contiguous or channels-last, with any number of spatial dimensions. One with gaps is copied first,
and so are `e`, `g`, `y` and `t` in another memory format than x's. Results have x's format. Sums are float32, or
float64 of float64 feature maps. Sums of the parts of an image are merged in a second stage, so no result depends on the
order in which programs end or on the size of the device.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.kernels.block_epilogue import triton_programs as programs
from senet.kernels.block_epilogue.reference import Affine, wide

PROGRAMS = 4096
"""Least number of programs of a pass with sums, where the size allows: enough to load 132 multiprocessors evenly."""


class Plan(NamedTuple):
    """How a feature map is cut: a program has `channels` of one image and walks over `span` positions in steps."""

    channels: int
    positions: int
    span: int
    warps: int = 4


def plan(images: int, channels: int, positions: int, itemsize: int, last: bool, sums: bool) -> Plan:
    """Choose the cut of a feature map (images, channels, positions).

    Args:
        images: N.
        channels: C.
        positions: P.
        itemsize: bytes of an element.
        last: channels are the fast axis, else positions.
        sums: the pass accumulates sums. These take registers, and each part of an image costs a second stage.
    """
    elements = (4096 if sums else 8192) // itemsize
    if (channels if last else positions) * itemsize % 8:
        # Rows are not aligned: elements are read one by one, and their addresses take registers.
        elements //= 4
    if last:
        block = min(triton.next_power_of_2(channels), 128 // itemsize)
        walk = min(triton.next_power_of_2(positions), elements // block)
    else:
        walk = min(triton.next_power_of_2(positions), 512 // itemsize)
        block = min(triton.next_power_of_2(channels), elements // walk)
    steps = triton.cdiv(positions, walk)
    if not sums:
        return Plan(block, walk, walk * min(steps, 4))
    parts = triton.cdiv(PROGRAMS, max(1, images * triton.cdiv(channels, block)))
    return Plan(block, walk, walk * triton.cdiv(steps, parts))


def _dense(x: Tensor, last: bool) -> Tensor:
    """x without gaps, channels last or not; x itself where it already is."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def _contiguous(*vectors: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in vectors]


def _empty(x: Tensor, *shape: int) -> Tensor:
    """Memory for sums over x."""
    return torch.empty(shape, dtype=wide(x), device=x.device)


def launch(program: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch a program without fused multiply-add: every pass must compute the same sign of y."""
    constants["WIDE"] = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):
        program[grid](*arguments, **constants, enable_fp_fusion=False)


class _Cut:
    """A dense feature map and its cut."""

    def __init__(self, x: Tensor, *, sums: bool) -> None:
        # With one position both orders are right, and channels are the longer axis.
        self.last = x.stride(1) == 1 and x.shape[1] > 1
        self.x = _dense(x, self.last)
        self.sizes = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        self.cut = plan(*self.sizes, x.element_size(), self.last, sums)
        self.parts = triton.cdiv(self.sizes[2], self.cut.span)

    def like(self, e: Tensor | None) -> Tensor | None:
        """`e` in x's memory format."""
        return None if e is None else _dense(e, self.last)

    def run(self, program: Any, *arguments: Any, **constants: Any) -> None:
        """Launch a program on each tile."""
        images, channels, positions = self.sizes
        fast = channels if self.last else positions
        constants |= {
            "LAST": self.last,
            "UNIT": min(16, fast & -fast),
            "BC": self.cut.channels,
            "BP": self.cut.positions,
        }
        grid = (images * triton.cdiv(channels, self.cut.channels) * self.parts,)
        span, warps = self.cut.span, self.cut.warps
        launch(program, grid, self.x, *arguments, *self.sizes, span, **constants, num_warps=warps)


def _run_pairs(program: Any, images: int, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Launch a program on each tile of (images, C) arrays; C is the last size of `like`."""
    channels = like.shape[-1]
    grid = triton.cdiv(channels, 64), triton.cdiv(images, 16)
    launch(program, grid, like, *arguments, images, channels, **constants, BN=16, BC=64)


def _merge(mean: Tensor, m2: Tensor, size: int, tail: int, *, variance: bool) -> tuple[Tensor, Tensor]:
    """Merge moments (K, E) of K parts, of `size` positions and the last of `tail`, to (E).

    variance: return the variance in place of the sum of squared deviations.
    """
    parts, elements = mean.shape
    merged = _empty(mean, elements), _empty(mean, elements)
    sizes = parts, elements, size, tail, (parts - 1) * size + tail
    rows, columns = (128, 16) if variance else (16, 128)
    grid = (triton.cdiv(elements, columns),)
    launch(programs.merge, grid, mean, mean, m2, *merged, *sizes, VARIANCE=variance, BK=rows, BE=columns)
    return merged


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `reference.moments`."""
    on = _Cut(x, sums=True)
    rows = x.shape[0] * x.shape[1]
    mean, m2 = _empty(x, on.parts, rows), _empty(x, on.parts, rows)
    extremum = None if sign is None else _empty(x, on.parts, *x.shape[:2])
    on.run(programs.moments, on.x, *_contiguous(sign), mean, m2, extremum)
    if on.parts > 1:
        mean, m2 = _merge(mean, m2, on.cut.span, on.sizes[2] - (on.parts - 1) * on.cut.span, variance=False)
    if sign is not None and extremum is not None:
        extremum = torch.where(sign < 0, extremum.amin(0), extremum.amax(0)) if on.parts > 1 else extremum[0]
    return mean.view(x.shape[:2]), m2.view(x.shape[:2]), extremum


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """As `reference.combine`."""
    return _merge(mean.contiguous(), m2.contiguous(), positions, positions, variance=True)


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `reference.normalise`."""
    r, a, z = _empty(mu, *mu.shape), _empty(mu, *mu.shape), None if z0 is None else _empty(mu, *z0.shape)
    images = 1 if z0 is None else z0.shape[0]
    _run_pairs(programs.normalise, images, mu, *_contiguous(z0, mu, var, gamma, beta), r, a, z, EPS=eps)
    return r, a, z


def apply(x: Tensor, e: Tensor | None, f: Affine, relu: bool) -> Tensor:
    """As `reference.apply`."""
    on = _Cut(x, sums=False)
    y = torch.empty_like(on.x)
    on.run(programs.apply, on.x, on.like(e), *_contiguous(*f), y, RELU=relu)
    return y


def reduce(
    g: Tensor, x: Tensor, y: Tensor | None, f: Affine, extremum: Tensor | None, *, relu: bool, keep: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """As `reference.reduce`."""
    on = _Cut(x, sums=True)
    t = torch.empty_like(on.x, dtype=g.dtype) if keep and relu else None
    totals = _empty(x, 2 if extremum is None else 3, on.parts, *x.shape[:2])
    vectors = _contiguous(*f, extremum)
    ties = None if extremum is None else totals[2]
    on.run(programs.reduce, on.like(g), on.x, on.like(y), *vectors, t, totals[0], totals[1], ties, RELU=relu)
    totals = totals.sum(1) if on.parts > 1 else totals[:, 0]
    return t if relu or not keep else g, totals[0], totals[1], None if extremum is None else totals[2]


def gate_gradient(T0: Tensor, T1: Tensor, f: Affine) -> Tensor:
    """As `reference.gate_gradient`."""
    ds = _empty(T0, *T0.shape)
    _run_pairs(programs.gate_gradient, T0.shape[0], T0, *_contiguous(T0, T1, f.a, f.beta), ds)
    return ds


def sums(T0: Tensor, T1: Tensor, f: Affine, dz: Tensor | None, z0: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `reference.sums`."""
    images, channels = T0.shape
    totals = _empty(T0, channels), _empty(T0, channels)
    arguments = _contiguous(T0, T1, f.s, None if z0 is None else dz, z0, f.mu)
    launch(programs.sums, (triton.cdiv(channels, 16),), T0, *arguments, *totals, images, channels, BN=128, BC=16)
    return totals


def input_gradient(
    t: Tensor,
    x: Tensor,
    f: Affine,
    r: Tensor | None,
    dz: Tensor | None,
    extremum: Tensor | None,
    ties: Tensor | None,
    b0: Tensor | None,
    b1: Tensor | None,
    count: int,
    *,
    relu: bool,
) -> Tensor:
    """As `reference.input_gradient`."""
    on = _Cut(x, sums=False)
    dx = torch.empty_like(on.x)
    if extremum is None or ties is None:
        extremum = ties = None
    if b0 is None or b1 is None or r is None:
        b0 = b1 = r = None
    vectors = _contiguous(*f, r, dz, extremum, ties, b0, b1)
    on.run(programs.input_gradient, on.like(t), on.x, *vectors, dx, count, RELU=relu)
    return dx
