"""The passes of a fused block epilogue in plain torch: the reference for Triton and C, and the fallback elsewhere.

The epilogue is `y = relu(s (a (x - mu) + beta) + e)`, batch norm, unit, sum and ReLU. The squeeze needs no pass of its
own: the mean over space of a batch-normalised map is `z = a (mean - mu) + beta`, and batch norm reads the map for its
statistics anyway. So the sums are gathered per image and channel, (n, c), instead of per channel:

    moments, combine, normalise, [the gates s of z], apply                           reads x, x, e;    writes y
    reduce, gate_gradient, [the gradient dz of s], sums, input_gradient              reads g, y, x, t, x; writes t, dx

Letters: `x` (N, C, *) is the output of the block's last convolution, `e` (N, C, *) the shortcut, `g` the gradient of
`y`, `t = g (y > 0)`, but g where y is NaN, as in torch; P = positions per image, M = N P. Maps are of any memory
format; `mean, m2, z, s, dz, T0, T1` are (N, C), `mu, var, r, a, beta` (C), both in float32, or in float64 where x is.

Where there is no norm, `mu, a, beta, r` are None (0, 1, 0, 1); where there is no unit, `s` and `dz` are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> torch.dtype:
    """What sums over x are held in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def over(v: Tensor, x: Tensor) -> Tensor:
    """A (C) or (N, C) tensor in the shape in which it broadcasts over the map x."""
    return v.reshape((1,) * (2 - v.dim()) + v.shape + (1,) * (x.dim() - 2))


def space(x: Tensor) -> tuple[int, ...]:
    """The axes of space."""
    return tuple(range(2, x.dim()))


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Per image and channel the mean over space and the sum of squared deviations from it; reads x once.

    sign (C): also the extremum of x, the maximum where it is not negative, else the minimum; for the max squeeze.
    """
    v = x.to(wide(x))
    mean = v.mean(space(x))
    m2 = (v - over(mean, x)).square().sum(space(x))
    if sign is None:
        return mean, m2, None
    return mean, m2, torch.where(sign < 0, v.amin(space(x)), v.amax(space(x)))


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """Per channel the mean and the biased variance over images and space (Chan's formula)."""
    mu = mean.mean(0)
    return mu, m2.mean(0) / positions + (mean - mu).square().mean(0)


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`r = (var + eps)^-1/2`, `a = gamma r`, and the squeeze after the norm, `z = a (z0 - mu) + beta`.

    z0: the squeeze before the norm, `mean` or the extremum; None: no unit.  gamma, beta: None without affine, 1 and 0.
    """
    r = (var + eps).rsqrt()
    a = r if gamma is None else gamma * r
    if z0 is None:
        return r, a, None
    z = a * (z0 - mu)
    return r, a, z if beta is None else z + beta


def _affine(x: Tensor, mu: Tensor | None, a: Tensor | None, beta: Tensor | None, s: Tensor | None) -> Tensor:
    """`s (a (x - mu) + beta)`, wide."""
    v = x.to(wide(x))
    if mu is not None:
        v = v - over(mu, x)
    if a is not None:
        v = v * over(a, x)
    if beta is not None:
        v = v + over(beta, x)
    return v if s is None else v * over(s, x)


def apply(
    x: Tensor,
    e: Tensor | None,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    s: Tensor | None,
    relu: bool,
) -> Tensor:
    """`y = relu(s (a (x - mu) + beta) + e)` in x's dtype and memory format; reads x and e, writes y."""
    v = _affine(x, mu, a, beta, s)
    if e is not None:
        v = v + e
    return (torch.relu(v) if relu else v).to(x.dtype)


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
    """`t = g (y > 0)`, and per image and channel `T0 = sum t`, `T1 = sum t (x - mu)`, ties of x with its extremum.

    y: None: the sign of y is computed again from x, as `apply` does without `e`.
    relu: False: `t = g`.
    keep: whether t is written (it is e's gradient); else None is returned in its place.
    """
    t = _masked(g, x, y, mu, a, beta, s, relu)
    w = t.to(wide(x))
    T0, T1 = w.sum(space(x)), (w * _affine(x, mu, None, None, None)).sum(space(x))
    ties = None if extremum is None else (x.to(wide(x)) == over(extremum, x)).sum(space(x)).to(wide(x))
    return t if keep else None, T0, T1, ties


def _masked(
    g: Tensor,
    x: Tensor,
    y: Tensor | None,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    s: Tensor | None,
    relu: bool,
) -> Tensor:
    if not relu:
        return g
    return g.masked_fill((_affine(x, mu, a, beta, s) if y is None else y) <= 0, 0)


def gate_gradient(T0: Tensor, T1: Tensor, a: Tensor | None, beta: Tensor | None) -> Tensor:
    """The gradient of the gates, `ds = a T1 + beta T0`."""
    ds = T1 if a is None else a * T1
    return ds if beta is None else ds + beta * T0


def sums(
    T0: Tensor, T1: Tensor, s: Tensor | None, dz: Tensor | None, z0: Tensor | None, mu: Tensor
) -> tuple[Tensor, Tensor]:
    """Per channel the sums over images and space of `db` and of `db (x - mu)`, with db = s t + dz/P batch norm's
    gradient: those of beta, and of gamma but for r."""
    b0, b1 = (T0, T1) if s is None else (s * T0, s * T1)
    if dz is not None and z0 is not None:
        b0, b1 = b0 + dz, b1 + dz * (z0 - mu)
    return b0.sum(0), b1.sum(0)


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
    """`dx = a (s t + dz/P - b0/M - (x - mu) r^2 b1/M)`; reads t and x, writes dx.

    extremum, ties: with them dz goes to the places of the extremum, `dz/ties (x = extremum)`, in place of `dz/P`.
    b0, b1: of `sums`, over all M = count positions; None where the statistics are constants.
    relu: t is not masked yet (`reduce` did not keep it): mask it by the sign of y without e.
    """
    positions = x[0, 0].numel()
    d = _masked(t, x, None, mu, a, beta, s, relu).to(wide(x))
    if s is not None:
        d = d * over(s, x)
    if dz is not None:
        if extremum is None or ties is None:
            d = d + over(dz / positions, x)
        else:
            d = d + over(dz / ties, x) * (x.to(wide(x)) == over(extremum, x))
    if b0 is not None and b1 is not None and r is not None:
        d = d - over(b0 / count, x) - _affine(x, mu, None, None, None) * over(r.square() * b1 / count, x)
    return (d if a is None else d * over(a, x)).to(x.dtype)
