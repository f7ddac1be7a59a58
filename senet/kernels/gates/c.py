"""A unit's squeeze, gates and scaling in C, for float32 on a CPU: both fully connected layers are one call.

    z = mean(u) over positions,    s = gate(W2 act(W1 z + b1) + b2),    y = act(s u + e)

`torch.ops.senet.global_mean(u)` returns z (N, C) of u (N, C, H, W), `torch.ops.senet.gates(z, w1, b1, w2, b2, act,
gate)` s (N, C). `z` (N, K), `w1` (R, K), `b1` (R), `w2` (R, C): transposed, `b2` (C); `act` and `gate` are of
`packed.ACTIVATIONS`. `channel_gates(z, w, gate)` are ECA's: `s = gate(conv1d(z))`, with `z` (N, C) and `w` (k), k odd.
`gated(u, s, c, e, act)` returns y, with `e` (N, C, H, W) or None, where c is C; `gated_(u, s, e,
act)` writes it into e. There is no gradient. Wrong shapes or dtypes raise RuntimeError.
"""

from __future__ import annotations

from ctypes import CDLL
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.kernels.cc import compiled, library
from senet.kernels.packed import call, channels_last, check, define, empty, number, operations, scratch

SOURCE = Path(__file__).with_name("gates.c")

LARGEST_VECTOR = 16
"""Numbers of a vector register, at most."""


def available() -> bool:
    """Whether `gates.c` is or can be compiled here."""
    return library(SOURCE) is not None


@cache
def _c() -> CDLL:
    return compiled(SOURCE)


def _run(z: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, act: str, gate: str) -> Tensor:
    (n, k), (r, c) = z.shape, w2.shape
    check("gates", (z, (n, k)), (w1, (r, k)), (b1, (r,)), (w2, (r, c)), (b2, (c,)))
    s = empty((n, c))
    tensors = z.contiguous(), w1.contiguous(), b1, w2.contiguous(), b2, s, scratch(n * r)
    call(_c().gates, tensors, n, k, r, c, number(act), number(gate), torch.get_num_threads())
    return s


def _channel_gates(z: Tensor, w: Tensor, gate: str) -> Tensor:
    (n, c), (k,) = z.shape, w.shape
    if k % 2 == 0:
        raise RuntimeError(f"senet::channel_gates: a kernel of {k}; expected: an odd number")
    check("channel_gates", (z, (n, c)), (w, (k,)))
    s = empty((n, c))
    room = scratch(c + k + LARGEST_VECTOR)
    call(_c().channel_gates, (z.contiguous(), w.contiguous(), s, room), n, c, k, number(gate))
    return s


def _global_mean(u: Tensor) -> Tensor:
    n, c, height, width = u.shape
    check("global_mean", (u, u.shape))
    z = empty((n, c))
    call(_c().global_mean, (channels_last(u), z), n, height * width, c, torch.get_num_threads())
    return z


def _gated(u: Tensor, s: Tensor, e: Tensor | None, y: Tensor, act: int) -> None:
    n, c, height, width = u.shape
    check("gated", (u, u.shape), (s, (n, c)), (e, u.shape), (y, u.shape))
    call(_c().gated, (u, s.contiguous(), e, y), n, height * width, c, act, torch.get_num_threads())


define("gated", "", _gated, lambda u: list(u.shape[2:]))
operations.define("global_mean(Tensor u) -> Tensor")
operations.define("gates(Tensor z, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate) -> Tensor")
operations.define("channel_gates(Tensor z, Tensor w, str gate) -> Tensor")
operations.impl("channel_gates", _channel_gates, "CPU")
operations.impl("global_mean", _global_mean, "CPU")
operations.impl("gates", _run, "CPU")
torch.library.register_fake("senet::gates", lambda z, w1, b1, w2, *_: z.new_empty(len(z), w2.shape[1]))
torch.library.register_fake("senet::channel_gates", lambda z, *_: torch.empty_like(z))
torch.library.register_fake("senet::global_mean", lambda u: u.new_empty(u.shape[:2]))
