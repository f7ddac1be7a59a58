"""The C kernel against torch's convolution in float64: every epilogue, and shapes that break panels and tiles."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels.conv1x1 import c as conv1x1

if not conv1x1.available():
    pytest.skip("no C compiler", allow_module_level=True)

ops = torch.ops.senet

SHAPES = {
    "a panel": (2, 8, 32, 4, 4),
    "less than a panel": (2, 8, 5, 3, 3),
    "panels and a rest": (1, 7, 67, 5, 7),
    "one position": (1, 9, 33, 1, 1),
    "one channel in": (3, 1, 40, 3, 2),
    "one channel out": (2, 5, 1, 3, 3),
    "tiles that straddle images": (5, 6, 35, 1, 7),
    "many tiles": (2, 16, 48, 13, 11),
    "one row of many": (1, 3, 32, 1, 25),
    "no image": (0, 4, 32, 3, 3),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def truth(h: Tensor, w: Tensor, b: Tensor | None, s: Tensor | None, e: Tensor | None, relu: bool) -> Tensor:
    h, w, b, s, e = (None if t is None else t.double() for t in (h, w, b, s, e))  # type: ignore[assignment]
    y = F.conv2d(h, w[..., None, None], b)
    y = y if s is None else y * s[..., None, None]
    y = y if e is None else y + e
    return y.relu() if relu else y


def operands(n: int, k: int, c: int, height: int, width: int) -> tuple[Any, ...]:
    return (
        maps(n, k, height, width),
        noise(c, k, seed=1),
        noise(c, seed=2),
        noise(n, c, seed=3),
        maps(n, c, height, width, seed=4),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_every_epilogue(name: str) -> None:
    h, w, *rest = operands(*SHAPES[name])
    for with_b, with_s, with_e, relu in itertools.product((True, False), repeat=4):
        b, s, e = (t if there else None for t, there in zip(rest, (with_b, with_s, with_e), strict=True))
        want = truth(h, w, b, s, e, relu)
        y = ops.conv1x1_packed(h, conv1x1.pack(w), len(w), b, s, e, relu)
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5)
        if e is not None:
            written = e.clone(memory_format=torch.preserve_format)
            assert ops.conv1x1_packed_(h, conv1x1.pack(w), b, s, written, relu) is None
            assert torch.equal(written, y)


def test_maps_of_another_layout() -> None:
    h, w, b, s, e = operands(2, 6, 35, 3, 5)
    want = truth(h, w, b, s, e, True)
    h, e, s = h.contiguous(), e.contiguous(), s.t().contiguous().t()
    b = torch.stack((b, b), 1)[:, 0]
    packed = conv1x1.pack(w)
    torch.testing.assert_close(ops.conv1x1_packed(h, packed, 35, b, s, e, True).double(), want, rtol=1e-5, atol=1e-5)
    ops.conv1x1_packed_(h, packed, b, s, e, True)
    assert e.is_contiguous()
    torch.testing.assert_close(e.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [32, 33])
def test_nan_and_infinity(channels: int) -> None:
    """As torch's ReLU; and a sum that is not a number stays where it is."""
    h, w, b, s, e = operands(1, 4, channels, 2, 3)
    h[0, 0, 0, 0], h[0, 1, 1, 1] = float("nan"), float("inf")
    y = ops.conv1x1_packed(h, conv1x1.pack(w), channels, b, s, e, True)
    torch.testing.assert_close(y.double(), truth(h, w, b, s, e, True), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert y[0, :, 0, 0].isnan().all()
    assert not y[0, :, 0, 1:].isnan().any()


def test_threads() -> None:
    """Any number of them gives the same bits."""
    h, w, b, s, e = operands(2, 16, 67, 13, 11)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.conv1x1_packed(h, conv1x1.pack(w), 67, b, s, e, True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_large_channels() -> None:
    """Several groups of panels, and sums of a thousand terms to float32's rounding."""
    h, w, b, s, e = operands(1, 1024, 200, 2, 5)
    y = ops.conv1x1_packed(h, conv1x1.pack(w), 200, b, s, e, False)
    torch.testing.assert_close(y.double(), truth(h, w, b, s, e, False), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("with_e", [True, False])
def test_as_operations_of_torch(with_e: bool) -> None:
    h, w, b, s, e = operands(2, 6, 35, 3, 5)
    packed = conv1x1.pack(w)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.conv1x1_packed.default, (h, packed, 35, b, s, e if with_e else None, True), test_utils=tests
    )
    if with_e:
        torch.library.opcheck(ops.conv1x1_packed_.default, (h, packed, b, None, e, False), test_utils=tests)


WRONG = {
    "h": lambda h, w, b, s, e: (h[:, 1:], w, 35, b, s, e),
    "channels": lambda h, w, b, s, e: (h, w, 99, None, None, None),
    "b": lambda h, w, b, s, e: (h, w, 35, b[1:], s, e),
    "s of one image": lambda h, w, b, s, e: (h, w, 35, b, s[:1], e),
    "e": lambda h, w, b, s, e: (h, w, 35, b, s, e[..., 1:]),
    "double": lambda h, w, b, s, e: (h.double(), w, 35, b, s, e),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_do_not_reach_the_kernel(name: str) -> None:
    h, w, b, s, e = operands(2, 6, 35, 3, 5)
    with pytest.raises(
        RuntimeError, match=r"senet::conv1x1_packed: \(.*\) torch.float\d\d; expected: \(.*\) torch.float32"
    ):
        ops.conv1x1_packed(*WRONG[name](h, conv1x1.pack(w), b, s, e), True)
