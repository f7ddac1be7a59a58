"""Depthwise convolutions, gates and the scaling by them in C against torch's in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels import dispatch
from senet.kernels.packed import ACTIVATIONS
from tests.kernels.test_packed import ACTS, close, maps, noise

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)

from senet.kernels.conv1x1 import c as conv1x1
from senet.kernels.depthwise import c as depthwise
from senet.kernels.gates import c as gates_c

OPS = torch.ops.senet
assert gates_c.available()
# N, C, H, W, kernel, stride, padding.
CASES = {
    "a vector": (1, 16, 9, 11, 3, 1, (1, 1)),
    "a vector and a rest": (2, 37, 14, 7, 5, 2, (2, 2)),
    "a prime": (1, 101, 6, 13, 3, 2, (1, 1)),
    "one pixel": (2, 24, 1, 1, 3, 1, (1, 1)),
    "one pixel, 7x7": (1, 16, 1, 1, 7, 1, (3, 3)),
    "one row": (1, 16, 1, 30, 5, 1, (2, 2)),
    "narrower than the kernel": (2, 16, 8, 2, 7, 1, (3, 3)),
    "no padding": (1, 32, 7, 9, 3, 1, (0, 0)),
    "padding of one side": (1, 16, 6, 5, 3, 2, (0, 1)),
    "wide padding": (1, 16, 3, 2, 3, 1, (3, 4)),
    "many rows": (1, 16, 40, 5, 7, 2, (3, 3)),
    "no image": (0, 16, 5, 5, 3, 1, (1, 1)),
}


def truth(
    h: Tensor, w: Tensor, b: Tensor | None, stride: int, padding: tuple[int, int], act: str, g: Tensor | None = None
) -> Tensor:
    bias = None if b is None else b.double()
    h = h.double() if g is None else h.double() * g.double()[..., None, None]
    return ACTS[act](F.conv2d(h, w.double(), bias, stride, padding, groups=h.shape[1]))


def check(
    n: int, c: int, height: int, width: int, kernel: int, stride: int, padding: tuple[int, int], act: str
) -> None:
    h, w, b = maps(n, c, height, width), noise(c, 1, kernel, kernel, seed=1), noise(c, seed=2)
    for bias in (b, None):
        want = truth(h, w, bias, stride, padding, act)
        y, z = OPS.depthwise_squeeze(h, depthwise.pack(w), bias, stride, padding, act)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, want)
        close(z, want.mean((2, 3)))
        assert torch.equal(OPS.depthwise(h.contiguous(), depthwise.pack(w), bias, stride, padding, act), y)
        g = noise(c, n, seed=3).t()
        y, z = OPS.depthwise_squeeze(h, depthwise.pack(w), bias, stride, padding, act, g)
        close(y, want := truth(h, w, bias, stride, padding, act, g))
        close(z, want.mean((2, 3)))


# N, I, C, H, W, kernel, stride, padding.
EXPANDED = {
    "stride 1": (2, 7, 40, 14, 11, 3, 1, (1, 1)),
    "stride 2": (1, 16, 32, 13, 14, 3, 2, (1, 1)),
    "5x5": (2, 9, 35, 9, 8, 5, 2, (2, 2)),
    "7x7": (1, 4, 17, 12, 10, 7, 1, (3, 3)),
    "one pixel": (3, 5, 24, 1, 1, 5, 1, (2, 2)),
    "one row": (1, 3, 16, 1, 31, 3, 1, (1, 1)),
    "narrower than the kernel": (2, 6, 16, 8, 2, 7, 1, (3, 3)),
    "no padding": (1, 8, 32, 7, 9, 3, 1, (0, 0)),
    "wide padding": (1, 8, 16, 4, 3, 3, 2, (4, 5)),
    "columns that nothing reads": (1, 8, 16, 8, 8, 3, 2, (0, 0)),
    "no image": (0, 8, 16, 5, 5, 3, 1, (1, 1)),
}


@pytest.mark.parametrize("name", EXPANDED)
@pytest.mark.parametrize("act", ["relu", "silu"])
def test_behind_an_expansion(name: str, act: str) -> None:
    n, i, c, height, width, kernel, stride, padding = EXPANDED[name]
    x, w1, b1 = maps(n, i, height, width), noise(c, i, 1, 1, seed=1) / i**0.5, noise(c, seed=2)
    w, b, before = noise(c, 1, kernel, kernel, seed=3), noise(c, seed=4), torch.get_num_threads()
    packed = conv1x1.pack(w1), depthwise.pack(w)
    for one, two in ((b1, b), (None, None)):
        h = ACTS[act](F.conv2d(x.double(), w1.double(), None if one is None else one.double()))
        want = ACTS["hardswish"](
            F.conv2d(h, w.double(), None if two is None else two.double(), stride, padding, groups=c)
        )
        results = []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(
                    OPS.expanded_depthwise(x, packed[0], one, act, packed[1], two, stride, padding, "hardswish")
                )
        finally:
            torch.set_num_threads(before)
        y, z = results[0]
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, want)
        close(z, want.mean((2, 3)), equal_nan=True)
        assert all(torch.equal(y, other) and torch.equal(z, means) for other, means in results[1:])


@pytest.mark.parametrize("shape", [(2, 40, 13, 11), (1, 101, 9, 70), (3, 5, 1, 1), (1, 16, 1, 200), (0, 8, 3, 3)])
def test_global_mean(shape: tuple[int, ...]) -> None:
    u = maps(*shape)
    close(OPS.global_mean(u), u.double().mean((2, 3)))
    assert torch.equal(OPS.global_mean(u.contiguous()), OPS.global_mean(u))


@pytest.mark.parametrize("shape", [(2, 40, 13, 11), (1, 101, 9, 70), (3, 5, 1, 1), (1, 64, 1, 200), (0, 8, 3, 3)])
@pytest.mark.parametrize("act", ["none", "relu", "silu"])
def test_gated(shape: tuple[int, ...], act: str) -> None:
    """With and without a sum, in place, other memory formats, any number of threads."""
    (n, c, *_), before = shape, torch.get_num_threads()
    u, e, s = maps(*shape), maps(*shape, seed=1), torch.rand(c, n, generator=torch.Generator().manual_seed(2)).t()
    for term in (None, e):
        want = u.double() * s.double()[..., None, None]
        y = OPS.gated(u, s, c, term, act)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, ACTS[act](want if term is None else want + term.double()))
        assert torch.equal(y, OPS.gated(u.contiguous(), s, c, None if term is None else term.contiguous(), act))
        try:
            torch.set_num_threads(2)
            assert torch.equal(y, OPS.gated(u, s, c, term, act))
        finally:
            torch.set_num_threads(before)
    OPS.gated_(u, s, e, act)
    assert torch.equal(e, y)


@pytest.mark.parametrize("name", CASES)
def test_sizes(name: str) -> None:
    check(*CASES[name], "relu")


@pytest.mark.parametrize("act", ACTS)
def test_activations(act: str) -> None:
    check(*CASES["a vector and a rest"], act)
    assert set(ACTS) == set(ACTIVATIONS)


def test_one_weight_by_hand() -> None:
    """It shifts the feature map by one position."""
    h, w = maps(1, 16, 5, 6), torch.zeros(16, 1, 3, 3)
    w[3, 0, 0, 2] = 2
    y = OPS.depthwise(h, depthwise.pack(w), None, 1, (1, 1), "none")
    want = torch.zeros(16, 5, 6)
    want[3, 1:, :-1] = 2 * h[0, 3, :-1, 1:]
    assert torch.equal(y[0], want)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    h, w, before = maps(2, 40, 13, 11), noise(40, 1, 5, 5, seed=1), torch.get_num_threads()
    s, w1, w2 = noise(3, 40), noise(10, 40, seed=2), noise(10, 40, seed=3)
    results: list[list[Tensor]] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            both = OPS.depthwise_squeeze(h, depthwise.pack(w), None, 1, (2, 2), "silu")
            results.append([*both, OPS.gates(s, w1, None, w2, None, "relu", "sigmoid")])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(
    ("n", "k", "r", "c"), [(1, 8, 2, 8), (3, 7, 1, 5), (2, 101, 13, 67), (1, 1, 3, 1), (2, 64, 16, 96)]
)
def test_gates(n: int, k: int, r: int, c: int) -> None:
    z, w1, b1, w2, b2 = (noise(*shape, seed=i) for i, shape in enumerate(((n, k), (r, k), (r,), (c, r), (c,))))
    for act, gate, biased in itertools.product(("relu", "silu", "none"), ("sigmoid", "hardsigmoid"), (True, False)):
        one, two = (b1, b2) if biased else (None, None)
        t = ACTS[act](F.linear(z.double(), w1.double(), None if one is None else one.double()))
        want = ACTS[gate](F.linear(t, w2.double(), None if two is None else two.double()))
        close(OPS.gates(z, w1, one, w2.t(), two, act, gate), want)


def test_as_operations_of_torch() -> None:
    tests = ("test_schema", "test_faketensor")
    arguments = (maps(2, 16, 5, 4), depthwise.pack(noise(16, 1, 3, 3)), None, 1, (1, 1), "relu")
    for operation in (OPS.depthwise, OPS.depthwise_squeeze):
        torch.library.opcheck(operation.default, (*arguments, noise(2, 16)), test_utils=tests)  # type: ignore[attr-defined]
        torch.library.opcheck(operation.default, arguments, test_utils=tests)  # type: ignore[attr-defined]
    expanded = (maps(2, 6, 5, 4), conv1x1.pack(noise(16, 6, 1, 1)), None, "relu", *arguments[1:])
    torch.library.opcheck(OPS.expanded_depthwise.default, expanded, test_utils=tests)  # type: ignore[attr-defined]
    torch.library.opcheck(OPS.global_mean.default, (maps(2, 16, 5, 4),), test_utils=tests)  # type: ignore[attr-defined]
    gated = maps(2, 16, 5, 4), noise(2, 16), 16, maps(2, 16, 5, 4, seed=1), "relu"
    torch.library.opcheck(OPS.gated.default, gated, test_utils=tests)  # type: ignore[attr-defined]
    torch.library.opcheck(OPS.gated_.default, (*gated[:2], *gated[3:]), test_utils=tests)  # type: ignore[attr-defined]
    gates = (noise(2, 8), noise(4, 8), noise(4), noise(4, 9), None, "relu", "sigmoid")
    torch.library.opcheck(OPS.gates.default, gates, test_utils=tests)  # type: ignore[attr-defined]


def test_wrong_shapes_do_not_reach_the_kernel() -> None:
    h, w = maps(2, 16, 5, 4), depthwise.pack(noise(16, 1, 3, 3))
    for args in ((h[:, :8], w, None, 1), (h.double(), w, None, 1), (h, w, torch.zeros(3), 1), (h, w[..., :8], None, 1)):
        with pytest.raises(RuntimeError, match=r"senet::depthwise: \(.*\) torch.float\d\d; expected"):
            OPS.depthwise(*args, (1, 1), "relu")
    for kernel, stride, channels in ((3, 3, 16), (4, 1, 16), (3, 1, 7)):
        weight = depthwise.pack(noise(channels, 1, kernel, kernel))
        with pytest.raises(RuntimeError, match=rf"{channels} channels, kernel {kernel}, stride {stride}; expected: "):
            OPS.depthwise(maps(1, channels, 6, 6), weight, None, stride, (1, 1), "relu")
    with pytest.raises(RuntimeError, match=r"senet::expanded_depthwise: "):
        OPS.expanded_depthwise(h, conv1x1.pack(noise(16, 15, 1, 1)), None, "relu", w, None, 1, (1, 1), "relu")
    with pytest.raises(RuntimeError, match=r"senet::global_mean: "):
        OPS.global_mean(h.double())
    for wrong in (noise(2, 15), noise(1, 16)):
        with pytest.raises(RuntimeError, match=r"senet::gated: "):
            OPS.gated(h, wrong, 16, None, "relu")
    with pytest.raises(RuntimeError, match=r"senet::gates: "):
        OPS.gates(noise(2, 7), noise(4, 8), None, noise(4, 9), None, "relu", "sigmoid")
