"""Random shapes of every kernel in C against torch in float64, with memory that holds NaN before it is written.

`python -m benchmarks.fuzz_kernels` runs thousands of these, under sanitizers too.
"""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels import dispatch
from senet.kernels.packed import ACTIVATIONS
from tests.kernels.buffers import full_of_nan
from tests.kernels.test_packed import ACTS, close, maps, noise

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)

from senet.kernels.conv1x1 import c as conv1x1
from senet.kernels.conv3x3 import c as conv3x3
from senet.kernels.depthwise import c as depthwise
from senet.kernels.direct import c as direct
from senet.kernels.gates import c as gates_c

assert gates_c.available()
OPS = torch.ops.senet
Outcome = tuple[str, Tensor, Tensor]
"""The case in words, the kernel's result, and the truth."""


def _sizes(draw: random.Random, most: int = 70) -> tuple[int, int, int, int]:
    """Images, channels, height and width; often one, a prime, or a little more than a register holds."""
    channels = draw.choice([1, 2, 3, 5, 7, 8, 13, 16, 17, 24, 31, 32, 33, draw.randint(1, most)])
    return draw.randint(1, 3), channels, *(draw.choice([1, 2, 3, draw.randint(1, 20)]) for _ in "HW")  # type: ignore[return-value]


def _layout(draw: random.Random, x: Tensor) -> Tensor:
    return draw.choice([x, x.contiguous(), x.transpose(2, 3).contiguous().transpose(2, 3)])


def _maybe(draw: random.Random, t: Tensor) -> Tensor | None:
    return draw.choice([t, None])


def _wide(t: Tensor | None) -> Tensor | float:
    return 0.0 if t is None else t.double()


def pointwise(draw: random.Random) -> Outcome:
    n, k, height, width = _sizes(draw)
    c, act = _sizes(draw)[1], draw.choice(ACTIVATIONS)
    is_fast = draw.random() < 0.4
    if is_fast:
        k, c = 2 * k, draw.choice((2, 4, 6)) * conv1x1.panel()
    h, w, b = maps(n, k, height, width), noise(c, k, 1, 1, seed=1) / k**0.5, _maybe(draw, noise(c, seed=2))
    pack = conv1x1.pack_fast if is_fast else conv1x1.pack
    g, s = _maybe(draw, noise(n, k, seed=3)), _maybe(draw, noise(n, c, seed=4))
    e = _maybe(draw, maps(n, c, height, width, seed=5))
    y = OPS.conv1x1_packed(_layout(draw, h), pack(w), c, g, b, s, e, act)
    want = F.conv2d(h.double() if g is None else h.double() * g.double()[..., None, None], w.double())
    want = want if b is None else want + b.double()[:, None, None]
    want = want if s is None else want * s.double()[..., None, None]
    return f"{'Strassen' if is_fast else '1x1'} {n, k, c, height, width, act}", y, ACTS[act](want + _wide(e))


def grouped(draw: random.Random) -> Outcome:
    """`direct` of any kernel and stride, and Winograd's algorithm where both are 3x3 and 1."""
    groups = draw.choice([1, 1, 2, 3, 7])
    n, k, height, width = _sizes(draw, 24)
    c, act = _sizes(draw, 24)[1], draw.choice(ACTIVATIONS)
    is_winograd = draw.random() < 0.5
    kernel = (3, 3) if is_winograd else (draw.randint(1, 5), draw.randint(1, 5))
    stride = 1 if is_winograd else draw.randint(1, 3)
    padding = tuple(draw.randint(max(0, (a - d + 1) // 2), 3) for a, d in zip(kernel, (height, width), strict=True))
    h, b = maps(n, k * groups, height, width), _maybe(draw, noise(c * groups, seed=2))
    w = noise(c * groups, k, *kernel, seed=1) / (k * kernel[0] * kernel[1]) ** 0.5
    want = F.conv2d(h.double(), w.double(), None if b is None else b.double(), stride, padding, groups=groups)
    e = _maybe(draw, maps(*want.shape, seed=3))
    if is_winograd:
        y = OPS.conv3x3_packed(_layout(draw, h), conv3x3.pack(w, groups), len(w), groups, padding, b, e, act)
    else:
        planar, order = draw.random() < 0.5, None
        together, merged = direct.merged(w, groups)
        if not planar and draw.random() < 0.5:
            order = torch.randperm(k * groups).int()
            h = h[:, order.argsort()]
        options = merged, kernel, stride, padding, planar, order, b, e, act
        y = OPS.direct(_layout(draw, h), direct.pack(together, merged, planar=planar), len(w), *options)
    name = "3x3" if is_winograd else "direct"
    return f"{name} {tuple(h.shape), tuple(w.shape), groups, stride, padding, act}", y, ACTS[act](want + _wide(e))


def by_channel(draw: random.Random) -> Outcome:
    """`depthwise_squeeze`, or behind an expansion; y and z as one."""
    n, _, height, width = _sizes(draw)
    c, kernel, stride = draw.randint(depthwise.lanes(), 70), draw.choice(depthwise.SIZES), draw.choice((1, 2))
    padding = tuple(draw.randint(max(0, (kernel - d + 1) // 2), kernel // 2 + 1) for d in (height, width))
    w, b, act = noise(c, 1, kernel, kernel, seed=1) / kernel, _maybe(draw, noise(c, seed=2)), draw.choice(ACTIVATIONS)
    if draw.random() < 0.5:
        h = maps(n, c, height, width)
        y, z = OPS.depthwise_squeeze(_layout(draw, h), depthwise.pack(w), b, stride, padding, act)
        wide = h.double()
    else:
        k, act1 = _sizes(draw)[1], draw.choice(ACTIVATIONS)
        x, w1, b1 = maps(n, k, height, width), noise(c, k, 1, 1, seed=3) / k**0.5, _maybe(draw, noise(c, seed=4))
        packed = conv1x1.pack(w1), b1, act1, depthwise.pack(w), b
        y, z = OPS.expanded_depthwise(_layout(draw, x), *packed, stride, padding, act)
        wide = ACTS[act1](F.conv2d(x.double(), w1.double(), None if b1 is None else b1.double()))
    bias = None if b is None else b.double()
    want = ACTS[act](F.conv2d(wide, w.double(), bias, stride, padding, groups=c))
    both = (torch.cat([t.flatten(), m.flatten()]) for t, m in ((y, z), (want, want.mean((2, 3)))))
    return (f"depthwise {n, c, height, width, kernel, stride, padding, act}", *both)  # type: ignore[return-value]


def unit(draw: random.Random) -> Outcome:
    """Squeeze, gates and scaling in turn."""
    n, c, height, width = _sizes(draw)
    r, act, gate = draw.randint(1, 20), draw.choice(("relu", "silu", "none")), draw.choice(("sigmoid", "hardsigmoid"))
    u, end = maps(n, c, height, width), draw.choice(ACTIVATIONS)
    w1, b1, w2, b2 = noise(r, c) / c**0.5, _maybe(draw, noise(r, seed=1)), noise(c, r, seed=2), _maybe(draw, noise(c))
    e = _maybe(draw, maps(n, c, height, width, seed=3))
    s = OPS.gates(OPS.global_mean(_layout(draw, u)), w1, b1, w2.t(), b2, act, gate)
    y = OPS.gated(_layout(draw, u), s, c, e, end)
    t = ACTS[act](F.linear(u.double().mean((2, 3)), w1.double(), None if b1 is None else b1.double()))
    gates = ACTS[gate](F.linear(t, w2.double(), None if b2 is None else b2.double()))
    return (
        f"unit {n, c, r, height, width, act, gate, end}",
        y,
        ACTS[end](u.double() * gates[..., None, None] + _wide(e)),
    )


def pooling(draw: random.Random) -> Outcome:
    """Max and mean pooling, and ECA's gates of what comes out."""
    n, c, height, width = _sizes(draw)
    kernel = [draw.randint(1, min(4, d)) for d in (height, width)]
    stride, padding = ([draw.randint(a, a + 2) for _ in "HW"] for a in (1, 0))
    padding = [min(p, k // 2) for p, k in zip(padding, kernel, strict=True)]
    ceil, counts = draw.random() < 0.5, draw.random() < 0.5
    h, w = maps(n, c, height, width), noise(draw.choice((1, 3, 5, 9)))
    means = OPS.pool(_layout(draw, h), kernel, stride, padding, ceil, True, counts)
    most = OPS.pool(_layout(draw, h), kernel, stride, padding, ceil, False, False)
    s = OPS.channel_gates(OPS.global_mean(means), w, "sigmoid")
    want = F.avg_pool2d(h.double(), kernel, stride, padding, ceil, counts)
    gates = F.conv1d(want.mean((2, 3))[:, None], w.double()[None, None], padding=len(w) // 2)[:, 0].sigmoid()
    exact = want, F.max_pool2d(h.double(), kernel, stride, padding, ceil_mode=ceil), gates
    act = draw.choice(ACTIVATIONS)
    joined = OPS.cat([means, _layout(draw, most), means], act)
    exact = *exact, ACTS[act](torch.cat([exact[0], exact[1].double(), exact[0]], 1))
    both = (torch.cat([t.flatten() for t in of]) for of in ((means, most, s, joined), exact))
    return (f"pooling {n, c, height, width, kernel, stride, padding, ceil, counts}", *both)  # type: ignore[return-value]


def connected(draw: random.Random) -> Outcome:
    """A fully connected layer, of few or of thousands of numbers."""
    (n, k), c, act = _sizes(draw)[:2], _sizes(draw)[1], draw.choice(ACTIVATIONS)
    n, k = n * draw.choice((1, 6)), k * draw.choice((1, 1, 40))
    h, w, b = noise(n, k), noise(c, k, seed=1) / k**0.5, _maybe(draw, noise(c, seed=2))
    y = OPS.linear_packed(draw.choice([h, h[..., None, None]]), conv1x1.pack(w), c, b, act)
    want = F.linear(h.double(), w.double(), None if b is None else b.double())
    return f"linear {n, k, c, act}", y, ACTS[act](want)


KINDS = (pointwise, grouped, by_channel, unit, pooling, connected)


def check(seed: int) -> str:
    """Draw a case, run it with buffers full of NaN, and compare; return what was drawn."""
    draw, before = random.Random(seed), torch.get_num_threads()
    torch.set_num_threads(draw.choice((1, 2, 3)))
    try:
        with full_of_nan():
            what, y, want = draw.choice(KINDS)(draw)
    finally:
        torch.set_num_threads(before)
    try:
        close(y, want)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {what}: {error}") from None
    return what


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_cases(first: int) -> None:
    for seed in range(first, first + 25):
        check(seed)
