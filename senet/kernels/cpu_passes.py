"""The passes of a fused block epilogue in C, for a CPU: the functions of `passes`, with the same names and signatures.

They take dense float32 maps, contiguous or channels-last, and numbers per channel in float32 too; of others, and where
`passes.c` cannot be compiled (see `cc`), they are those of `passes`. Threads are torch's, and no result depends on how
many there are.
"""

from __future__ import annotations

from ctypes import CDLL, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels import passes
from senet.kernels.cc import library

SOURCE = Path(__file__).with_name("passes.c")

# How many tensors a function takes, how many 64-bit numbers, and what else.
ARGUMENTS = {
    "moments": (5, 4, c_int),
    "apply": (7, 4, c_int, c_int),
    "reduce": (12, 4, c_int, c_int),
    "input_gradient": (13, 5, c_int, c_int),
    "combine": (4, 3),
    "normalise": (8, 2, c_double),
    "gate_gradient": (5, 2),
    "sums": (8, 2),
}


def available() -> bool:
    """Whether the C passes are or can be compiled here."""
    return _c() is not None


@cache
def _c() -> CDLL | None:
    c = library(SOURCE)
    if c is not None:
        for name, (tensors, numbers, *others) in ARGUMENTS.items():
            getattr(c, name).argtypes = [c_void_p] * tensors + [c_int64] * numbers + others
            getattr(c, name).restype = None
    return c


def _are_float32(*tensors: Tensor | None) -> bool:
    for t in tensors:
        if t is not None and (t.dtype != torch.float32 or not t.is_cpu):
            return False
    return available()


def _sizes(x: Tensor, *others: Tensor | None) -> tuple[int, int, int, int] | None:
    """A map as `passes.c` has it: images, positions, channels and C; None where it does not take these tensors."""
    if not _are_float32(x, *others) or x.numel() == 0:
        return None
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    if x.stride(1) == 1 and x.movedim(1, -1).is_contiguous():
        return n, positions, c, c
    return (n * c, positions, 1, c) if x.is_contiguous() else None


def _like(m: Tensor | None, x: Tensor) -> Tensor | None:
    """A map laid out as x is."""
    return m if m is None or m.stride() == x.stride() else torch.empty_like(x).copy_(m)


def _call(name: str, tensors: tuple[Tensor | None, ...], *numbers: float) -> None:
    """Call a function of the library; tensors: maps laid out alike, and vectors."""
    held = [t if t is None or t.dim() > 2 or t.is_contiguous() else t.contiguous() for t in tensors]
    getattr(_c(), name)(*[None if t is None else t.data_ptr() for t in held], *numbers)


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """`passes.moments`."""
    sizes = _sizes(x, sign)
    if sizes is None:
        return passes.moments(x, sign)
    mean, m2 = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    extremum = None if sign is None else x.new_empty(x.shape[:2])
    _call("moments", (x, sign, mean, m2, extremum), *sizes, torch.get_num_threads())
    return mean, m2, extremum


def apply(
    x: Tensor,
    e: Tensor | None,
    mu: Tensor | None,
    a: Tensor | None,
    beta: Tensor | None,
    s: Tensor | None,
    relu: bool,
) -> Tensor:
    """`passes.apply`."""
    sizes = _sizes(x, e, mu, a, beta, s)
    if sizes is None:
        return passes.apply(x, e, mu, a, beta, s, relu)
    y = torch.empty_like(x)
    _call("apply", (x, _like(e, x), mu, a, beta, s, y), *sizes, relu, torch.get_num_threads())
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
    """`passes.reduce`."""
    sizes = _sizes(x, g, y, mu, a, beta, s, extremum)
    if sizes is None:
        return passes.reduce(g, x, y, mu, a, beta, s, extremum, relu=relu, keep=keep)
    g, y = _like(g, x), _like(y, x)  # type: ignore[assignment]
    # Without a ReLU t is g.
    t = torch.empty_like(x) if keep and relu else None
    T0, T1 = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    ties = None if extremum is None else x.new_empty(x.shape[:2])
    tensors = (g, x, y, mu, a, beta, s, extremum, t, T0, T1, ties)
    _call("reduce", tensors, *sizes, relu, torch.get_num_threads())
    return (t if relu else g) if keep else None, T0, T1, ties


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
    """`passes.input_gradient`."""
    sizes = _sizes(x, t, mu, a, beta, r, s, dz, extremum, ties, b0, b1)
    if sizes is None:
        return passes.input_gradient(t, x, mu, a, beta, r, s, dz, extremum, ties, b0, b1, count, relu=relu)
    dx = torch.empty_like(x)
    tensors = (_like(t, x), x, mu, a, beta, r, s, dz, extremum, ties, b0, b1, dx)
    _call("input_gradient", tensors, *sizes, count, relu, torch.get_num_threads())
    return dx


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """`passes.combine`."""
    if not _are_float32(mean, m2):
        return passes.combine(mean, m2, positions)
    mu, var = mean.new_empty(mean.shape[1]), mean.new_empty(mean.shape[1])
    _call("combine", (mean, m2, mu, var), *mean.shape, positions)
    return mu, var


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`passes.normalise`."""
    if not _are_float32(mu, z0, var, gamma, beta):
        return passes.normalise(z0, mu, var, gamma, beta, eps)
    r, a = var.new_empty(var.shape), var.new_empty(var.shape)
    z = None if z0 is None else z0.new_empty(z0.shape)
    images = 0 if z0 is None else z0.shape[0]
    _call("normalise", (z0, mu, var, gamma, beta, r, a, z), images, var.numel(), eps)
    return r, a, z


def gate_gradient(T0: Tensor, T1: Tensor, a: Tensor | None, beta: Tensor | None) -> Tensor:
    """`passes.gate_gradient`."""
    if not _are_float32(T0, T1, a, beta):
        return passes.gate_gradient(T0, T1, a, beta)
    ds = T1.new_empty(T1.shape)
    _call("gate_gradient", (T0, T1, a, beta, ds), *T1.shape)
    return ds


def sums(
    T0: Tensor, T1: Tensor, s: Tensor | None, dz: Tensor | None, z0: Tensor | None, mu: Tensor
) -> tuple[Tensor, Tensor]:
    """`passes.sums`."""
    if not _are_float32(T0, T1, s, dz, z0, mu):
        return passes.sums(T0, T1, s, dz, z0, mu)
    b0, b1 = mu.new_empty(mu.shape), mu.new_empty(mu.shape)
    _call("sums", (T0, T1, s, dz if z0 is not None else None, z0, mu, b0, b1), *T0.shape)
    return b0, b1
