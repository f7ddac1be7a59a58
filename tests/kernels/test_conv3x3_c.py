"""Winograd's algorithm in C against torch's convolution in float64: every epilogue, and maps that cut its tiles."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels.conv3x3 import c as conv3x3
from tests.kernels.test_conv1x1_c import maps, noise

if not conv3x3.available():
    pytest.skip("no C compiler", allow_module_level=True)

ops = torch.ops.senet

# N, K, C, H, W and padding.
SHAPES = {
    "a tile": (1, 16, 32, 4, 4, (1, 1)),
    "tiles": (2, 32, 16, 8, 12, (1, 1)),
    "cut tiles": (3, 16, 48, 7, 9, (1, 1)),
    "one position": (2, 16, 16, 1, 1, (1, 1)),
    "one row": (1, 16, 32, 1, 30, (1, 1)),
    "no padding": (2, 32, 32, 9, 6, (0, 0)),
    "padding of one side": (1, 16, 16, 6, 5, (0, 1)),
    "wide padding": (1, 16, 16, 3, 2, (3, 5)),
    "tiles of a thread's own": (8, 16, 16, 60, 44, (1, 1)),
    "weights of a megabyte": (3, 176, 144, 13, 10, (1, 1)),
    "several chunks, shared": (2, 160, 160, 33, 29, (1, 1)),
    "no image": (0, 16, 32, 5, 5, (1, 1)),
}


def operands(n: int, k: int, c: int, height: int, width: int, padding: tuple[int, int]) -> tuple[Any, ...]:
    size = (height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    w = noise(c, k, 3, 3, seed=1) / (3 * k**0.5)
    return maps(n, k, height, width), w, padding, noise(c, seed=2), maps(n, c, *size, seed=4)


def truth(h: Tensor, w: Tensor, padding: tuple[int, int], b: Tensor | None, e: Tensor | None, relu: bool) -> Tensor:
    y = F.conv2d(h.double(), w.double(), None if b is None else b.double(), padding=padding)
    y = y if e is None else y + e.double()
    return y.relu() if relu else y


def close(y: Tensor, want: Tensor, equal_nan: bool = False) -> None:
    """To the rounding of float32 sums that are some ten times their result on the way."""
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5, equal_nan=equal_nan)


@pytest.mark.parametrize("name", SHAPES)
def test_every_epilogue(name: str) -> None:
    h, w, padding, *rest = operands(*SHAPES[name])
    packed = conv3x3.pack(w)
    for with_b, with_e, relu in itertools.product((True, False), repeat=3):
        b, e = (t if there else None for t, there in zip(rest, (with_b, with_e), strict=True))
        y = ops.conv3x3_packed(h, packed, len(w), padding, b, e, relu)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, truth(h, w, padding, b, e, relu))
        if e is not None:
            written = e.clone(memory_format=torch.preserve_format)
            assert ops.conv3x3_packed_(h, packed, padding, b, written, relu) is None
            assert torch.equal(written, y)


def test_both_ways_to_share_the_tiles_are_taken() -> None:
    """One chunk at a time for all threads, or chunks of each thread's own: more room for more threads."""
    n, k, c, height, width, _ = SHAPES["tiles of a thread's own"]
    one, two = (conv3x3.scratch_size(n, height, width, k, c, threads) for threads in (1, 2))
    assert two - k == 2 * (one - k)
    n, k, c, height, width, _ = SHAPES["several chunks, shared"]
    one, two = (conv3x3.scratch_size(n, height, width, k, c, threads) for threads in (1, 2))
    assert one == two < 36 * n * 9 * 8 * (k + c)


def test_one_product_by_hand() -> None:
    """One weight that is not zero moves the map by one position; all other places are zero, to rounding."""
    h, w = maps(1, 16, 5, 6), torch.zeros(16, 16, 3, 3)
    w[3, 7, 0, 2] = 2
    y = ops.conv3x3_packed(h, conv3x3.pack(w), 16, [1, 1], None, None, False)
    want = torch.zeros(16, 5, 6)
    want[3, 1:, :-1] = 2 * h[0, 7, :-1, 1:]
    torch.testing.assert_close(y[0], want, rtol=0, atol=1e-5)
    assert not y[0, [i for i in range(16) if i != 3]].any()


@pytest.mark.parametrize(("k", "bound"), [(32, 4e-7), (256, 4.5e-7), (1024, 5e-7)])
def test_rounding(k: int, bound: float) -> None:
    """Of the map's norm, behind a ReLU as in a network; it hardly grows with the channels."""
    h, w, padding, b, _ = operands(1, k, 32, 16, 16, (1, 1))
    want = truth(h.relu(), w, padding, b, None, True)
    y = ops.conv3x3_packed(h.relu(), conv3x3.pack(w), 32, padding, b, None, True)
    assert 1e-8 < (y - want).norm() / want.norm() < bound


def test_maps_of_another_layout() -> None:
    h, w, padding, b, e = operands(2, 16, 32, 5, 6, (1, 1))
    want, packed = truth(h, w, padding, b, e, True), conv3x3.pack(w)
    h, e, b = h.contiguous(), e.contiguous(), torch.stack((b, b), 1)[:, 0]
    close(ops.conv3x3_packed(h, packed, 32, padding, b, e, True), want)
    ops.conv3x3_packed_(h, packed, padding, b, e, True)
    assert e.is_contiguous()
    close(e, want)


def test_not_a_number_stays_in_its_tiles() -> None:
    """The tiles that it is in are lost, no value of another is, and nothing hides it."""
    h, w, padding, b, _ = operands(2, 16, 16, 12, 12, (1, 1))
    h[1, 3, 5, 6] = float("nan")
    y = ops.conv3x3_packed(h, conv3x3.pack(w), 16, padding, b, None, True)
    want = truth(h, w, padding, b, None, True)
    assert y[want.isnan()].isnan().all()
    assert not y[0].isnan().any()
    lost = y[1, 0].isnan()
    assert lost[4:8, 4:8].all()
    assert lost.sum() == 16
    close(torch.where(lost, 0, y[1]), torch.where(lost, 0, want[1]))


@pytest.mark.parametrize("name", ["cut tiles", "tiles of a thread's own", "several chunks, shared"])
def test_threads(name: str) -> None:
    """Any number of them gives the same bits."""
    h, w, padding, b, e = operands(*SHAPES[name])
    packed, before, results = conv3x3.pack(w), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.conv3x3_packed(h, packed, len(w), padding, b, e, True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_callers_at_the_same_time() -> None:
    """Each has memory of its own to work in."""
    h, w, padding, b, _ = operands(2, 64, 64, 20, 20, (1, 1))
    packed = conv3x3.pack(w)
    many = [h * i for i in range(1, 5)]
    want = [ops.conv3x3_packed(x, packed, 64, padding, b, None, False) for x in many]
    right = [0] * len(many)

    def call(i: int) -> None:
        for _ in range(20):
            right[i] += torch.equal(ops.conv3x3_packed(many[i], packed, 64, padding, b, None, False), want[i])

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(many))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert right == [20] * len(many)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_memory_to_work_in_is_float32_whatever_torch_prefers(dtype: torch.dtype) -> None:
    """In a thread of its own, which has none yet: half as much would be written past its end."""
    h, w, padding, b, _ = operands(1, 64, 64, 9, 9, (1, 1))
    made = []

    def call() -> None:
        made.append(ops.conv3x3_packed(h, conv3x3.pack(w), 64, padding, b, None, False))

    torch.set_default_dtype(dtype)
    try:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    finally:
        torch.set_default_dtype(torch.float32)
    (y,) = made
    close(y, truth(h, w, padding, b, None, False))


@pytest.mark.parametrize("with_e", [True, False])
def test_as_operations_of_torch(with_e: bool) -> None:
    h, w, padding, b, e = operands(2, 16, 32, 5, 7, (1, 0))
    packed = conv3x3.pack(w)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.conv3x3_packed.default, (h, packed, 32, padding, b, e if with_e else None, True), test_utils=tests
    )
    if with_e:
        torch.library.opcheck(ops.conv3x3_packed_.default, (h, packed, padding, None, e, False), test_utils=tests)


WRONG = {
    "h": lambda h, w, b, e: (h[:, 16:], w, 32, [1, 1], b, e),
    "channels": lambda h, w, b, e: (h, w, 96, [1, 1], None, None),
    "w": lambda h, w, b, e: (h, w[1:], 32, [1, 1], None, None),
    "b": lambda h, w, b, e: (h, w, 32, [1, 1], b[1:], e),
    "e": lambda h, w, b, e: (h, w, 32, [0, 1], b, e),
    "double": lambda h, w, b, e: (h.double(), w, 32, [1, 1], b, e),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_do_not_reach_the_kernel(name: str) -> None:
    h, w, _, b, e = operands(2, 32, 32, 5, 6, (1, 1))
    with pytest.raises(
        RuntimeError, match=r"senet::conv3x3_packed: \(.*\) torch.float\d\d; expected: \(.*\) torch.float32"
    ):
        ops.conv3x3_packed(*WRONG[name](h, conv3x3.pack(w), b, e), True)


@pytest.mark.parametrize(("k", "c"), [(12, 16), (16, 20)])
def test_channels_that_fill_no_vector(k: int, c: int) -> None:
    h, w, _, b, e = operands(1, k, c, 5, 6, (1, 1))
    with pytest.raises(RuntimeError, match=rf"{k} to {c} channels; expected: multiples of (8|16)"):
        ops.conv3x3_packed(h, conv3x3.pack(w), c, [1, 1], b, e, True)


def test_a_map_that_the_padding_leaves_nothing_of() -> None:
    h, w, *_ = operands(1, 16, 16, 5, 6, (1, 1))
    with pytest.raises(RuntimeError, match=r"size|dimension"):
        ops.conv3x3_packed(h[:, :, :1], conv3x3.pack(w), 16, [0, 0], None, None, True)
