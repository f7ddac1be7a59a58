"""The passes of `reference.py` in C, for float32 on a CPU: the same functions, compiled from `passes.c` on first use.

Feature maps are dense, contiguous or channels-last. The threads are torch's, and no result depends on their number.
"""

from __future__ import annotations

from ctypes import CDLL, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.block_epilogue.reference import Affine
from senet.kernels.cc import compiled, library

SOURCE = Path(__file__).with_name("passes.c")

# How many pointers and 64-bit integers each C function takes, and its further arguments.
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
    """Whether `passes.c` is or can be compiled here."""
    return library(SOURCE) is not None


@cache
def _c() -> CDLL:
    lib = compiled(SOURCE)
    for name, (tensors, numbers, *others) in ARGUMENTS.items():
        getattr(lib, name).argtypes = [c_void_p] * tensors + [c_int64] * numbers + others
        getattr(lib, name).restype = None
    return lib


def is_dense(x: Tensor) -> bool:
    """Whether a feature map is contiguous or channels-last, and not empty."""
    return x.numel() > 0 and (x.is_contiguous() or _is_channels_last(x))


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.movedim(1, -1).is_contiguous()


def _sizes(x: Tensor) -> tuple[int, int, int, int]:
    """A feature map as `passes.c` describes it: images, positions, channels, and the channels of a vector."""
    n, c = x.shape[:2]
    positions = x.numel() // (n * c)
    return (n, positions, c, c) if _is_channels_last(x) else (n * c, positions, 1, c)


def _like(t: Tensor | None, x: Tensor) -> Tensor | None:
    """`t` in x's memory format."""
    return t if t is None or t.stride() == x.stride() else torch.empty_like(x).copy_(t)


def _call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a C function: pointers of tensors, then numbers. Vectors are made contiguous first.

    Raises:
        RuntimeError: a tensor is not float32 on a CPU.
    """
    held: list[Tensor | float | None] = []
    for t in arguments:
        if isinstance(t, Tensor):
            if t.dtype != torch.float32 or not t.is_cpu:
                raise RuntimeError(f"{name}: {t.dtype} on {t.device}; expected: torch.float32 on cpu")
            t = t if t.dim() > 2 else t.contiguous()
        held.append(t)
    getattr(_c(), name)(*[t.data_ptr() if isinstance(t, Tensor) else t for t in held])


def moments(x: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `reference.moments`."""
    mean, m2 = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    extremum = None if sign is None else x.new_empty(x.shape[:2])
    _call("moments", x, sign, mean, m2, extremum, *_sizes(x), torch.get_num_threads())
    return mean, m2, extremum


def combine(mean: Tensor, m2: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """As `reference.combine`."""
    mu, var = mean.new_empty(mean.shape[1]), mean.new_empty(mean.shape[1])
    _call("combine", mean, m2, mu, var, *mean.shape, positions)
    return mu, var


def normalise(
    z0: Tensor | None, mu: Tensor, var: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `reference.normalise`."""
    r, a = var.new_empty(var.shape), var.new_empty(var.shape)
    z = None if z0 is None else z0.new_empty(z0.shape)
    images = 0 if z0 is None else len(z0)
    _call("normalise", z0, mu, var, gamma, beta, r, a, z, images, var.numel(), eps)
    return r, a, z


def apply(x: Tensor, e: Tensor | None, f: Affine, relu: bool) -> Tensor:
    """As `reference.apply`."""
    y = torch.empty_like(x)
    _call("apply", x, _like(e, x), *f, y, *_sizes(x), relu, torch.get_num_threads())
    return y


def reduce(
    g: Tensor, x: Tensor, y: Tensor | None, f: Affine, extremum: Tensor | None, *, relu: bool, keep: bool
) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
    """As `reference.reduce`."""
    # Without a ReLU t is g.
    t = torch.empty_like(x) if keep and relu else None
    T0, T1 = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    ties = None if extremum is None else x.new_empty(x.shape[:2])
    feature_maps = _like(g, x), x, _like(y, x)
    _call("reduce", *feature_maps, *f, extremum, t, T0, T1, ties, *_sizes(x), relu, torch.get_num_threads())
    return (t if relu else g) if keep else None, T0, T1, ties


def gate_gradient(T0: Tensor, T1: Tensor, f: Affine) -> Tensor:
    """As `reference.gate_gradient`."""
    ds = T1.new_empty(T1.shape)
    _call("gate_gradient", T0, T1, f.a, f.beta, ds, *T1.shape)
    return ds


def sums(T0: Tensor, T1: Tensor, f: Affine, dz: Tensor | None, z0: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `reference.sums`."""
    b0, b1 = T0.new_empty(T0.shape[1]), T0.new_empty(T0.shape[1])
    _call("sums", T0, T1, f.s, None if z0 is None else dz, z0, f.mu, b0, b1, *T0.shape)
    return b0, b1


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
    dx = torch.empty_like(x)
    tensors = (_like(t, x), x, *f, r, dz, extremum, ties, b0, b1, dx)
    _call("input_gradient", *tensors, *_sizes(x), count, relu, torch.get_num_threads())
    return dx
