"""The passes of `passes.py` in Triton: the same names, arguments and meaning, for CUDA tensors.

A map (N, C, *) is read where it lies, contiguous or with channels last, in any number of dimensions of space; one with
gaps is copied first, and so are `e`, `g`, `y`, `t` in another memory format than x's. What is written has x's. Sums
are held in float32 (float64 of float64 maps), and those of the parts of an image are joined in a second stage: no
result depends on the order in which programs end, or on the device's size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.kernels import tiles
from senet.kernels.passes import wide

# How many programs a pass of sums has at least where it can: enough for 132 multiprocessors to end about together.
PROGRAMS = 4096


class Plan(NamedTuple):
    """How a map is cut: a program has `channels` of one image, and walks over `span` positions in some steps."""

    channels: int
    positions: int
    span: int
    warps: int = 4


def plan(images: int, channels: int, positions: int, itemsize: int, last: bool, sums: bool) -> Plan:
    """The cut of a map (images, channels, positions) of elements of `itemsize` bytes.

    last: channels are the fast axis, else positions.  sums: the pass holds tiles of sums, which fill registers, and
    each part of an image that it makes costs a second stage; where there are none, programs are short.
    """
    elements = (4096 if sums else 8192) // itemsize
    if (channels if last else positions) * itemsize % 8:
        # Rows are not aligned, so elements are read one by one, and their addresses fill the registers.
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
    """The map x without gaps, with channels last or not; x itself where it is so."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def _contiguous(*vectors: Tensor | None) -> list[Tensor | None]:
    return [None if v is None else v.contiguous() for v in vectors]


def _empty(x: Tensor, *shape: int) -> Tensor:
    """What holds sums of x."""
    return torch.empty(shape, dtype=wide(x), device=x.device)


def _launch(program: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run the program; products and sums are rounded apart, so that all passes see the same sign of y."""
    constants["WIDE"] = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):
        program[grid](*arguments, **constants, enable_fp_fusion=False)


class _Map:
    """A map made dense, and how it is cut."""

    def __init__(self, x: Tensor, *, sums: bool) -> None:
        # Where there is one position, either order is right, and channels are the longer axis.
        self.last = x.stride(1) == 1 and x.shape[1] > 1
        self.x = _dense(x, self.last)
        self.sizes = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        self.cut = plan(*self.sizes, x.element_size(), self.last, sums)
        self.parts = triton.cdiv(self.sizes[2], self.cut.span)

    def like(self, e: Tensor | None) -> Tensor | None:
        """The map e in x's memory format."""
        return None if e is None else _dense(e, self.last)

    def run(self, program: Any, *arguments: Any, **constants: Any) -> None:
        """Run the program on each tile."""
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
        _launch(program, grid, self.x, *arguments, *self.sizes, span, **constants, num_warps=warps)


def _run_pairs(program: Any, images: int, like: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run the program on each tile of (images, C) arrays; C is the last size of `like`."""
    channels = like.shape[-1]
    grid = triton.cdiv(channels, 64), triton.cdiv(images, 16)
    _launch(program, grid, like, *arguments, images, channels, **constants, BN=16, BC=64)


def _merge(mean: Tensor, m2: Tensor, size: int, tail: int, *, variance: bool) -> tuple[Tensor, Tensor]:
    """(K, E) of K parts, each of `size` positions and the last of `tail`, to (E) of the whole.

    variance: instead of the sum of squared deviations.
    """
    parts, elements = mean.shape
    merged = _empty(mean, elements), _empty(mean, elements)
    sizes = parts, elements, size, tail, (parts - 1) * size + tail
    rows, columns = (128, 16) if variance else (16, 128)
    grid = (triton.cdiv(elements, columns),)
    _launch(tiles.merge, grid, mean, mean, m2, *merged, *sizes, VARIANCE=variance, BK=rows, BE=columns)
    return merged


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `passes.moments`."""
    on = _Map(x, sums=True)
    rows = x.shape[0] * x.shape[1]
    mean, m2 = _empty(x, on.parts, rows), _empty(x, on.parts, rows)
    extremum = None if sign is None else _empty(x, on.parts, *x.shape[:2])
    on.run(tiles.moments, on.x, *_contiguous(sign), mean, m2, extremum)
    if on.parts > 1:
        mean, m2 = _merge(mean, m2, on.cut.span, on.sizes[2] - (on.parts - 1) * on.cut.span, variance=False)
    if sign is not None and extremum is not None:
        extremum = torch.where(sign < 0, extremum.amin(0), extremum.amax(0)) if on.parts > 1 else extremum[0]
    return mean.view(x.shape[:2]), m2.view(x.shape[:2]), extremum


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """As `passes.combine`."""
    return _merge(mean.contiguous(), m2.contiguous(), positions, positions, variance=True)


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `passes.normalise`."""
    r, a, z = _empty(mu, *mu.shape), _empty(mu, *mu.shape), None if z0 is None else _empty(mu, *z0.shape)
    images = 1 if z0 is None else z0.shape[0]
    _run_pairs(tiles.normalise, images, mu, *_contiguous(z0, mu, var, gamma, beta), r, a, z, EPS=eps)
    return r, a, z


def apply(
    x: Tensor,
    e: Tensor | None,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    s: Tensor | None,
    relu: bool,
) -> Tensor:
    """As `passes.apply`."""
    on = _Map(x, sums=False)
    y = torch.empty_like(on.x)
    on.run(tiles.apply, on.x, on.like(e), *_contiguous(mu, a, beta, s), y, RELU=relu)
    return y


def reduce(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    s: Tensor | None,
    extremum: Tensor | None,
    *,
    relu: bool,
    keep: bool,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """As `passes.reduce`."""
    on = _Map(x, sums=True)
    t = torch.empty_like(on.x, dtype=g.dtype) if keep and relu else None
    totals = _empty(x, 2 if extremum is None else 3, on.parts, *x.shape[:2])
    vectors = _contiguous(mu, a, beta, s, extremum)
    ties = None if extremum is None else totals[2]
    on.run(tiles.reduce, on.like(g), on.x, on.like(y), *vectors, t, totals[0], totals[1], ties, RELU=relu)
    totals = totals.sum(1) if on.parts > 1 else totals[:, 0]
    return t if relu or not keep else g, totals[0], totals[1], None if extremum is None else totals[2]


def gate_gradient(T0: Tensor, T1: Tensor, a: Tensor | None, beta: Tensor | None) -> Tensor:
    """As `passes.gate_gradient`."""
    ds = _empty(T0, *T0.shape)
    _run_pairs(tiles.gate_gradient, T0.shape[0], T0, *_contiguous(T0, T1, a, beta), ds)
    return ds


def sums(
    T0: Tensor, T1: Tensor, s: Tensor | None, dz: Tensor | None, z0: Tensor | None, mu: Tensor
) -> tuple[Tensor, Tensor]:
    """As `passes.sums`."""
    images, channels = T0.shape
    totals = _empty(T0, channels), _empty(T0, channels)
    arguments = _contiguous(T0, T1, s, None if z0 is None else dz, z0, mu)
    _launch(tiles.sums, (triton.cdiv(channels, 16),), T0, *arguments, *totals, images, channels, BN=128, BC=16)
    return totals


def input_gradient(
    t: Tensor,
    x: Tensor,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    r: Tensor | None,
    s: Tensor | None,
    dz: Tensor | None,
    extremum: Tensor | None,
    ties: Tensor | None,
    b0: Tensor | None,
    b1: Tensor | None,
    count: int,
    *,
    relu: bool,
) -> Tensor:
    """As `passes.input_gradient`."""
    on = _Map(x, sums=False)
    dx = torch.empty_like(on.x)
    if extremum is None or ties is None:
        extremum = ties = None
    if b0 is None or b1 is None or r is None:
        b0 = b1 = r = None
    vectors = _contiguous(mu, a, beta, r, s, dz, extremum, ties, b0, b1)
    on.run(tiles.input_gradient, on.like(t), on.x, *vectors, dx, count, RELU=relu)
    return dx
