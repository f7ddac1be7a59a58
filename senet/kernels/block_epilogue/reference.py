"""The passes of the fused block epilogue in plain torch. Triton and C are tested against them.

The epilogue is `y = relu(s (a (x - mu) + beta) + e)`: batch norm, unit, sum and ReLU. The squeeze needs no pass of its
own: the mean over space of a batch-normalised feature map is `z = a (mean - mu) + beta`, and batch norm reads the
feature map for its statistics anyway. So sums are taken per image and channel, (N, C), instead of per channel:

    forward     moments, combine, normalise, [gates s of z], apply                  reads x, x, e;        writes y
    backward    reduce, gate_gradient, [gradient dz of s], sums, input_gradient     reads g, y, x, t, x;  writes t, dx

Letters and shapes:

    x (N, C, *)     output of the block's last convolution, in any memory format
    e (N, C, *)     shortcut
    g, t (N, C, *)  gradient of y, and `t = g (y > 0)`; where y is NaN t is g, as in torch
    mean, m2, z, s, dz, T0, T1   (N, C)
    mu, var, r, a, beta          (C)
    P, M            positions per image, and in the batch: M = N P

Arrays (N, C) and (C) are float32, or float64 where x is. Without a norm `mu, a, beta, r` are None (0, 1, 0, 1); without
a unit `s` and `dz` are None.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def wide(x: Tensor) -> torch.dtype:
    """The dtype in which sums over x are accumulated."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def over(v: Tensor, x: Tensor) -> Tensor:
    """Reshape a (C) or (N, C) tensor to broadcast over the feature map x."""
    return v.reshape((1,) * (2 - v.dim()) + v.shape + (1,) * (x.dim() - 2))


def space(x: Tensor) -> tuple[int, ...]:
    """The spatial axes of x."""
    return tuple(range(2, x.dim()))


class Affine(NamedTuple):
    """Batch norm and gates: `s (a (x - mu) + beta)`. A term that is None is skipped.

    Attributes:
        mu: (C), mean.
        a: (C), scale: batch norm's weight over the standard deviation.
        beta: (C), batch norm's bias.
        s: (N, C), gates.
    """

    mu: Tensor | None = None
    a: Tensor | None = None
    beta: Tensor | None = None
    s: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """Apply it to x, in `wide(x)`."""
        v = x.to(wide(x))
        if self.mu is not None:
            v = v - over(self.mu, x)
        if self.a is not None:
            v = v * over(self.a, x)
        if self.beta is not None:
            v = v + over(self.beta, x)
        return v if self.s is None else v * over(self.s, x)


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean over space and sum of squared deviations from it, per image and channel. Reads x once.

    Args:
        x: (N, C, *).
        sign: (C). If given, also return the extremum of x for the max squeeze: its minimum where sign is negative,
            its maximum elsewhere.
    """
    v = x.to(wide(x))
    mean = v.mean(space(x))
    m2 = (v - over(mean, x)).square().sum(space(x))
    if sign is None:
        return mean, m2, None
    return mean, m2, torch.where(sign < 0, v.amin(space(x)), v.amax(space(x)))


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel over images and space, by Chan's formula."""
    mu = mean.mean(0)
    return mu, m2.mean(0) / positions + (mean - mu).square().mean(0)


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`r = (var + eps)^-1/2`, `a = gamma r`, and the squeeze after the norm, `z = a (z0 - mu) + beta`.

    Args:
        z0: (N, C), squeeze before the norm: `mean` or the extremum. None without a unit.
        mu: (C).
        var: (C).
        gamma: (C), weight of the norm; None for 1.
        beta: (C), bias of the norm; None for 0.
        eps: of the norm.
    """
    r = (var + eps).rsqrt()
    a = r if gamma is None else gamma * r
    if z0 is None:
        return r, a, None
    z = a * (z0 - mu)
    return r, a, z if beta is None else z + beta


def apply(x: Tensor, e: Tensor | None, f: Affine, relu: bool) -> Tensor:
    """`y = relu(f(x) + e)` in x's dtype and memory format. Reads x and e, writes y."""
    v = f.of(x)
    if e is not None:
        v = v + e
    return (torch.relu(v) if relu else v).to(x.dtype)


def reduce(
    g: Tensor, x: Tensor, y: Tensor | None, f: Affine, extremum: Tensor | None, *, relu: bool, keep: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """`t = g (y > 0)`, and per image and channel `T0 = sum t`, `T1 = sum t (x - mu)` and the ties with the extremum.

    Args:
        g: gradient of y.
        x: (N, C, *).
        y: output of `apply`. None: compute its sign again from x, possible where there was no `e`.
        f: as in `apply`.
        extremum: (N, C), of `moments`. If given, also count the positions where x equals it.
        relu: False: `t = g`.
        keep: whether to return t, the gradient of e; else None in its place.
    """
    t = _masked(g, x, y, f, relu)
    w = t.to(wide(x))
    T0, T1 = w.sum(space(x)), (w * Affine(f.mu).of(x)).sum(space(x))
    ties = None if extremum is None else (x.to(wide(x)) == over(extremum, x)).sum(space(x)).to(wide(x))
    return t if keep else None, T0, T1, ties


def _masked(g: Tensor, x: Tensor, y: Tensor | None, f: Affine, relu: bool) -> Tensor:
    return g.masked_fill((f.of(x) if y is None else y) <= 0, 0) if relu else g


def gate_gradient(T0: Tensor, T1: Tensor, f: Affine) -> Tensor:
    """Gradient of the gates, `ds = a T1 + beta T0`."""
    ds = T1 if f.a is None else f.a * T1
    return ds if f.beta is None else ds + f.beta * T0


def sums(T0: Tensor, T1: Tensor, f: Affine, dz: Tensor | None, z0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sums per channel of `db` and `db (x - mu)`, where `db = s t + dz/P` is the gradient of batch norm's output.

    The first is the gradient of beta, the second times r that of gamma.
    """
    b0, b1 = (T0, T1) if f.s is None else (f.s * T0, f.s * T1)
    if dz is not None and z0 is not None:
        assert f.mu is not None
        b0, b1 = b0 + dz, b1 + dz * (z0 - f.mu)
    return b0.sum(0), b1.sum(0)


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
    """`dx = a (s t + dz/P - b0/M - (x - mu) r^2 b1/M)`. Reads t and x, writes dx.

    Args:
        t: of `reduce`, or g where `reduce` did not keep t.
        x: (N, C, *).
        f: as in `apply`.
        r: (C), of `normalise`.
        dz: (N, C), gradient of the squeeze.
        extremum: (N, C), for the max squeeze: dz goes to its positions, `dz/ties (x = extremum)` in place of `dz/P`.
        ties: (N, C), of `reduce`.
        b0: (C), of `sums`; None where the statistics are constants.
        b1: (C), of `sums`.
        count: M.
        relu: mask t by the sign of y, computed from x.
    """
    positions = x[0, 0].numel()
    d = _masked(t, x, None, f, relu).to(wide(x))
    if f.s is not None:
        d = d * over(f.s, x)
    if dz is not None:
        if extremum is None or ties is None:
            d = d + over(dz / positions, x)
        else:
            d = d + over(dz / ties, x) * (x.to(wide(x)) == over(extremum, x))
    if b0 is not None and b1 is not None and r is not None:
        d = d - over(b0 / count, x) - Affine(f.mu).of(x) * over(r.square() * b1 / count, x)
    return (d if f.a is None else d * over(f.a, x)).to(x.dtype)
