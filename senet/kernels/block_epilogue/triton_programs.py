"""The Triton programs that `triton.py` launches, over tiles of feature maps (N, C, P) and of (N, C) arrays.

Letters are those of `reference.py`. A tensor that is None removes its term from the program. Constants: LAST: channels
are the fast axis of a feature map; UNIT: a power of two that divides the size of the fast axis; BN, BC, BP, BK, BE:
images, channels, positions, parts, elements in a tile; WIDE: dtype of the sums.
"""
# A type checker for Python cannot follow Triton's language.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from triton.language import constexpr


@triton.jit
def _program(C, P, SPAN, BC: constexpr, BACK: constexpr):
    """This program's image, channels (BC), and part of the image, of SPAN positions.

    BACK: in reverse order. The pass before read the end last, so it may still be in the cache.
    """
    i = tl.program_id(0)
    if BACK:
        i = tl.num_programs(0) - 1 - i
    blocks = tl.cdiv(C, BC)
    parts = tl.cdiv(P, SPAN)
    return (i // (blocks * parts)).to(tl.int64), i % blocks * BC + tl.arange(0, BC), i // blocks % parts


@triton.jit
def _tile(n, c, start, C, P, LAST: constexpr, UNIT: constexpr, BP: constexpr):
    """Offsets (BC, BP) in a feature map from position `start` on, and which of them exist."""
    p = start + tl.arange(0, BP)
    # The product tells the compiler that rows are aligned, so it reads up to 16 bytes at a time.
    if LAST:
        C = C // UNIT * UNIT
        at = (n * P + p)[None, :] * C + c[:, None]
    else:
        P = P // UNIT * UNIT
        at = (n * C + c)[:, None] * P + p[None, :]
    return at, (c < C)[:, None] & (p < P)[None, :]


@triton.jit
def _vector(v, at, inside, default: constexpr, WIDE: constexpr):
    """Load v at the offsets `at` in WIDE; the default outside, or where v is None."""
    if v is None:
        return tl.full(at.shape, default, WIDE)
    else:
        return tl.load(v + at, inside, other=default).to(WIDE)


@triton.jit
def _affine(x, mu, a, beta, s):
    return s * (a * (x - mu) + beta)


@triton.jit
def moments(
    x, sign, mean, m2, extremum, N, C, P, SPAN,
    LAST: constexpr, UNIT: constexpr, BC: constexpr, BP: constexpr, WIDE: constexpr,
):  # fmt: skip
    """`reference.moments` of each part: results are (parts, N, C)."""
    n, c, part = _program(C, P, SPAN, BC, False)
    first = part * SPAN
    end = tl.minimum(first + SPAN, P)
    flip = tl.where(_vector(sign, c, c < C, 0.0, WIDE) < 0, -1.0, 1.0).to(WIDE)[:, None]
    # Deviations are from the mean of the first tile: squares of x would cancel where the mean is large.
    at, inside = _tile(n, c, first, C, P, LAST, UNIT, BP)
    shift = tl.sum(tl.load(x + at, inside, other=0.0).to(WIDE), 1) / tl.minimum(BP, end - first)
    shift = tl.where(tl.abs(shift) < float("inf"), shift, 0.0)[:, None]
    sum1 = tl.zeros((BC, BP), WIDE)
    sum2 = tl.zeros((BC, BP), WIDE)
    best = tl.full((BC, BP), -float("inf"), WIDE)
    for start in range(first, end, BP):
        at, inside = _tile(n, c, start, C, P, LAST, UNIT, BP)
        v = tl.load(x + at, inside, other=0.0).to(WIDE)
        d = tl.where(inside, v - shift, 0.0)
        sum1 += d
        sum2 += d * d
        if sign is not None:
            best = tl.maximum(best, tl.where(inside, v * flip, -float("inf")), propagate_nan=tl.PropagateNan.ALL)
    total = tl.sum(sum1, 1)[:, None]
    delta = total / (end - first)
    rest = tl.maximum(tl.sum(sum2, 1)[:, None] - total * delta, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out = ((part * N + n) * C + c)[:, None]
    tl.store(mean + out, shift + delta, (c < C)[:, None])
    tl.store(m2 + out, rest, (c < C)[:, None])
    if sign is not None:
        # tl.max along an axis drops NaN; a sum does not.
        broken = tl.sum((best != best).to(tl.int32), 1)[:, None] > 0
        best = flip * tl.max(best, 1)[:, None]
        tl.store(extremum + out, tl.where(broken, float("nan"), best), (c < C)[:, None])


@triton.jit
def apply(
    x, e, mu, a, beta, s, y, N, C, P, SPAN,
    RELU: constexpr, LAST: constexpr, UNIT: constexpr, BC: constexpr, BP: constexpr, WIDE: constexpr,
):  # fmt: skip
    """`reference.apply`: reads x and e once, writes y."""
    n, c, part = _program(C, P, SPAN, BC, True)
    mu_ = _vector(mu, c, c < C, 0.0, WIDE)[:, None]
    a_ = _vector(a, c, c < C, 1.0, WIDE)[:, None]
    beta_ = _vector(beta, c, c < C, 0.0, WIDE)[:, None]
    s_ = _vector(s, n * C + c, c < C, 1.0, WIDE)[:, None]
    for start in range(part * SPAN, tl.minimum(part * SPAN + SPAN, P), BP):
        at, inside = _tile(n, c, start, C, P, LAST, UNIT, BP)
        v = _affine(tl.load(x + at, inside, eviction_policy="evict_first").to(WIDE), mu_, a_, beta_, s_)
        if e is not None:
            v += tl.load(e + at, inside, eviction_policy="evict_first").to(WIDE)
        if RELU:
            v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + at, v, inside)


@triton.jit
def reduce(
    g, x, y, mu, a, beta, s, extremum, t, T0, T1, ties, N, C, P, SPAN,
    RELU: constexpr, LAST: constexpr, UNIT: constexpr, BC: constexpr, BP: constexpr, WIDE: constexpr,
):  # fmt: skip
    """`reference.reduce` of each part: reads g, x and y once, writes t; sums are (parts, N, C)."""
    n, c, part = _program(C, P, SPAN, BC, False)
    row = n * C + c
    mu_ = _vector(mu, c, c < C, 0.0, WIDE)[:, None]
    a_ = _vector(a, c, c < C, 1.0, WIDE)[:, None]
    beta_ = _vector(beta, c, c < C, 0.0, WIDE)[:, None]
    s_ = _vector(s, row, c < C, 1.0, WIDE)[:, None]
    extremum_ = _vector(extremum, row, c < C, 0.0, WIDE)[:, None]
    sum0 = tl.zeros((BC, BP), WIDE)
    sum1 = tl.zeros((BC, BP), WIDE)
    sum2 = tl.zeros((BC, BP), WIDE)
    for start in range(part * SPAN, tl.minimum(part * SPAN + SPAN, P), BP):
        at, inside = _tile(n, c, start, C, P, LAST, UNIT, BP)
        v = tl.load(x + at, inside, other=0.0).to(WIDE)
        w = tl.load(g + at, inside, other=0.0).to(WIDE)
        if RELU:
            if y is None:
                up = _affine(v, mu_, a_, beta_, s_)
            else:
                up = tl.load(y + at, inside, other=0.0, eviction_policy="evict_first").to(WIDE)
            w = tl.where(up <= 0, 0.0, w)  # keeps w where y is NaN, as torch does
        if t is not None:
            tl.store(t + at, w, inside)
        sum0 += w
        sum1 += w * tl.where(inside, v - mu_, 0.0)
        if extremum is not None:
            sum2 += (inside & (v == extremum_)).to(WIDE)
    out = part * N * C + row
    tl.store(T0 + out, tl.sum(sum0, 1), c < C)
    tl.store(T1 + out, tl.sum(sum1, 1), c < C)
    if extremum is not None:
        tl.store(ties + out, tl.sum(sum2, 1), c < C)


@triton.jit
def input_gradient(
    t, x, mu, a, beta, s, r, dz, extremum, ties, b0, b1, dx, count, N, C, P, SPAN,
    RELU: constexpr, LAST: constexpr, UNIT: constexpr, BC: constexpr, BP: constexpr, WIDE: constexpr,
):  # fmt: skip
    """`reference.input_gradient`: reads t and x once, writes dx."""
    n, c, part = _program(C, P, SPAN, BC, True)
    row = n * C + c
    mu_ = _vector(mu, c, c < C, 0.0, WIDE)[:, None]
    a_ = _vector(a, c, c < C, 1.0, WIDE)[:, None]
    beta_ = _vector(beta, c, c < C, 0.0, WIDE)[:, None]
    r_ = _vector(r, c, c < C, 1.0, WIDE)[:, None]
    s_ = _vector(s, row, c < C, 1.0, WIDE)[:, None]
    extremum_ = _vector(extremum, row, c < C, 0.0, WIDE)[:, None]
    dz_ = _vector(dz, row, c < C, 0.0, WIDE)[:, None]
    dz_ = dz_ / P if ties is None else dz_ / _vector(ties, row, c < C, 1.0, WIDE)[:, None]
    level = _vector(b0, c, c < C, 0.0, WIDE)[:, None] / count
    slope = r_ * r_ * (_vector(b1, c, c < C, 0.0, WIDE)[:, None] / count)
    for start in range(part * SPAN, tl.minimum(part * SPAN + SPAN, P), BP):
        at, inside = _tile(n, c, start, C, P, LAST, UNIT, BP)
        v = tl.load(x + at, inside, eviction_policy="evict_first").to(WIDE)
        w = tl.load(t + at, inside, eviction_policy="evict_first").to(WIDE)
        if RELU:
            w = tl.where(_affine(v, mu_, a_, beta_, s_) <= 0, 0.0, w)
        w = s_ * w + (dz_ if ties is None else dz_ * (v == extremum_).to(WIDE))
        tl.store(dx + at, a_ * (w - level - slope * (v - mu_)), inside)


@triton.jit
def merge(
    mean, m2, mean_out, m2_out, K, E, size, tail, total,
    VARIANCE: constexpr, BK: constexpr, BE: constexpr, WIDE: constexpr,
):  # fmt: skip
    """Merge moments by Chan's formula: (K, E) of K parts, of `size` positions and the last of `tail`, to (E)."""
    e = tl.program_id(0) * BE + tl.arange(0, BE)
    sums = tl.zeros((BK, BE), WIDE)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        inside = (k < K)[:, None] & (e < E)[None, :]
        part = tl.load(mean + k.to(tl.int64)[:, None] * E + e[None, :], inside, other=0.0)
        sums += part * tl.where(k < K - 1, size, tail)[:, None]
    mu = tl.sum(sums, 0)[None, :] / total
    sums = tl.zeros((BK, BE), WIDE)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        inside = (k < K)[:, None] & (e < E)[None, :]
        at = k.to(tl.int64)[:, None] * E + e[None, :]
        d = tl.load(mean + at, inside, other=0.0) - mu
        rest = tl.load(m2 + at, inside, other=0.0) + d * d * tl.where(k < K - 1, size, tail)[:, None]
        sums += tl.where(inside, rest, 0.0)
    rest = tl.sum(sums, 0)[None, :]
    tl.store(mean_out + e[None, :], mu, (e < E)[None, :])
    tl.store(m2_out + e[None, :], rest / total if VARIANCE else rest, (e < E)[None, :])


@triton.jit
def _pairs(N, C, BN: constexpr, BC: constexpr):
    """This program's channels, its offsets (BN, BC) in an (N, C) array, and which of them exist."""
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    return c, n.to(tl.int64)[:, None] * C + c[None, :], (n < N)[:, None] & (c < C)[None, :]


@triton.jit
def normalise(
    z0, mu, var, gamma, beta, r, a, z, N, C, EPS: constexpr, BN: constexpr, BC: constexpr, WIDE: constexpr
):  # fmt: skip
    """`reference.normalise`. The programs of the first images write r and a."""
    c, at, inside = _pairs(N, C, BN, BC)
    r_ = tl.rsqrt(_vector(var, c, c < C, 1.0, WIDE) + EPS)
    a_ = _vector(gamma, c, c < C, 1.0, WIDE) * r_
    if tl.program_id(1) == 0:
        tl.store(r + c, r_, c < C)
        tl.store(a + c, a_, c < C)
    if z0 is not None:
        d = _vector(z0, at, inside, 0.0, WIDE) - _vector(mu, c, c < C, 0.0, WIDE)[None, :]
        tl.store(z + at, a_[None, :] * d + _vector(beta, c, c < C, 0.0, WIDE)[None, :], inside)


@triton.jit
def gate_gradient(T0, T1, a, beta, ds, N, C, BN: constexpr, BC: constexpr, WIDE: constexpr):
    """`reference.gate_gradient`."""
    c, at, inside = _pairs(N, C, BN, BC)
    v = _vector(a, c, c < C, 1.0, WIDE)[None, :] * _vector(T1, at, inside, 0.0, WIDE)
    if beta is not None:
        v += _vector(beta, c, c < C, 0.0, WIDE)[None, :] * _vector(T0, at, inside, 0.0, WIDE)
    tl.store(ds + at, v, inside)


@triton.jit
def sums(T0, T1, s, dz, z0, mu, b0, b1, N, C, BN: constexpr, BC: constexpr, WIDE: constexpr):
    """`reference.sums`: a program sums its channels over all images."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    mu_ = _vector(mu, c, c < C, 0.0, WIDE)[None, :]
    sum0 = tl.zeros((BN, BC), WIDE)
    sum1 = tl.zeros((BN, BC), WIDE)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        at = n.to(tl.int64)[:, None] * C + c[None, :]
        inside = (n < N)[:, None] & (c < C)[None, :]
        s_ = _vector(s, at, inside, 1.0, WIDE)
        sum0 += s_ * _vector(T0, at, inside, 0.0, WIDE)
        sum1 += s_ * _vector(T1, at, inside, 0.0, WIDE)
        if dz is not None:
            dz_ = _vector(dz, at, inside, 0.0, WIDE)
            sum0 += dz_
            sum1 += tl.where(inside, dz_ * (_vector(z0, at, inside, 0.0, WIDE) - mu_), 0.0)
    tl.store(b0 + c, tl.sum(sum0, 0), c < C)
    tl.store(b1 + c, tl.sum(sum1, 0), c < C)
