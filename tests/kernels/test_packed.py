"""The convolutions in C against torch's in float64: every epilogue, and sizes that cut panels and tiles."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.kernels import dispatch
from senet.kernels.conv1x1 import c as conv1x1
from senet.kernels.conv3x3 import c as conv3x3

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)

# N, K, C, H, W.
POINTWISE = {
    "a panel": (2, 8, 32, 4, 4),
    "less than a panel": (2, 8, 5, 3, 3),
    "panels and a rest": (1, 7, 67, 5, 7),
    "one position": (1, 9, 33, 1, 1),
    "one channel in": (3, 1, 40, 3, 2),
    "one channel out": (2, 5, 1, 3, 3),
    "tiles across images": (5, 6, 35, 1, 7),
    "many tiles": (2, 16, 48, 13, 11),
    "one row of many": (1, 3, 32, 1, 25),
    "no image": (0, 4, 32, 3, 3),
}
# N, K, C, H, W and padding.
WINOGRAD = {
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


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


class Case(NamedTuple):
    """A convolution and its arguments; s is the gates of the 1x1 one, padding that of the 3x3 one."""

    h: Tensor
    w: Tensor
    b: Tensor | None
    s: Tensor | None
    e: Tensor | None
    padding: tuple[int, int]

    @property
    def is_pointwise(self) -> bool:
        return self.w.shape[-1] == 1

    def options(self) -> tuple[Any, ...]:
        """The arguments between the weight and e."""
        return (self.b, self.s) if self.is_pointwise else (self.padding, self.b)

    def packed(self) -> Tensor:
        return conv1x1.pack(self.w) if self.is_pointwise else conv3x3.pack(self.w)

    @property
    def operation(self) -> Callable[..., Tensor]:
        return torch.ops.senet.conv1x1_packed if self.is_pointwise else torch.ops.senet.conv3x3_packed

    def run(self, relu: bool = True) -> Tensor:
        return self.operation(self.h, self.packed(), len(self.w), *self.options(), self.e, relu)

    def run_(self, relu: bool = True) -> None:
        """Write into e."""
        ops = torch.ops.senet
        in_place = ops.conv1x1_packed_ if self.is_pointwise else ops.conv3x3_packed_
        assert in_place(self.h, self.packed(), *self.options(), self.e, relu) is None

    def truth(self, relu: bool = True) -> Tensor:
        bias = None if self.b is None else self.b.double()
        y = F.conv2d(self.h.double(), self.w.double(), bias, padding=self.padding)
        y = y if self.s is None else y * self.s.double()[..., None, None]
        y = y if self.e is None else y + self.e.double()
        return y.relu() if relu else y


def pointwise(n: int, k: int, c: int, height: int, width: int) -> Case:
    b, s, e = noise(c, seed=2), noise(n, c, seed=3), maps(n, c, height, width, seed=4)
    return Case(maps(n, k, height, width), noise(c, k, 1, 1, seed=1), b, s, e, (0, 0))


def winograd(n: int, k: int, c: int, height: int, width: int, padding: tuple[int, int] = (1, 1)) -> Case:
    size = (height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    w = noise(c, k, 3, 3, seed=1) / (3 * k**0.5)
    return Case(maps(n, k, height, width), w, noise(c, seed=2), None, maps(n, c, *size, seed=4), padding)


CASES = {f"1x1 {name}": pointwise(*sizes) for name, sizes in POINTWISE.items()}
CASES |= {f"3x3 {name}": winograd(*sizes) for name, sizes in WINOGRAD.items()}
SMALL = pointwise(2, 6, 35, 3, 5), winograd(2, 16, 32, 5, 7, (1, 0))
BOTH = pytest.mark.parametrize("case", SMALL, ids=["1x1", "3x3"])


def close(y: Tensor, want: Tensor, equal_nan: bool = False) -> None:
    """To the rounding of float32 sums; those of Winograd's algorithm are some ten times their result."""
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5, equal_nan=equal_nan)


@pytest.mark.parametrize("name", CASES)
def test_every_epilogue(name: str) -> None:
    whole = CASES[name]
    for with_b, with_s, with_e, relu in itertools.product((True, False), repeat=4):
        if whole.s is None and not with_s:
            continue
        case = whole._replace(
            b=whole.b if with_b else None, s=whole.s if with_s else None, e=whole.e if with_e else None
        )
        y = case.run(relu)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, case.truth(relu))
        if case.e is not None:
            case = case._replace(e=case.e.clone(memory_format=torch.preserve_format))
            case.run_(relu)
            assert torch.equal(case.e, y)  # type: ignore[arg-type]


@BOTH
def test_other_memory_formats(case: Case) -> None:
    want = case.truth()
    s = None if case.s is None else case.s.t().contiguous().t()
    b, e = torch.stack((case.b, case.b), 1)[:, 0], case.e.contiguous()  # type: ignore[arg-type, union-attr]
    case = case._replace(h=case.h.contiguous(), b=b, s=s, e=e)
    close(case.run(), want)
    case.run_()
    assert e.is_contiguous()
    close(e, want)


@pytest.mark.parametrize(
    "case",
    [
        pointwise(2, 16, 67, 13, 11),
        *(winograd(*WINOGRAD[name]) for name in ("cut tiles", "tiles of a thread's own", "several chunks, shared")),
    ],
    ids=["1x1", "cut tiles", "own tiles", "shared chunks"],
)
def test_any_number_of_threads_gives_the_same_bits(case: Case) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(case.run())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@BOTH
@pytest.mark.parametrize("with_e", [True, False])
def test_as_operations_of_torch(case: Case, with_e: bool) -> None:
    tests = ("test_schema", "test_faketensor")
    case = case if with_e else case._replace(e=None)
    arguments = (case.h, case.packed(), len(case.w), *case.options(), case.e, True)
    torch.library.opcheck(case.operation.default, arguments, test_utils=tests)  # type: ignore[attr-defined]
    if with_e:
        ops = torch.ops.senet
        in_place = ops.conv1x1_packed_ if case.is_pointwise else ops.conv3x3_packed_
        torch.library.opcheck(in_place.default, (*arguments[:2], *arguments[3:]), test_utils=tests)


WRONG: dict[str, Callable[[Case], Case]] = {
    "h": lambda case: case._replace(h=case.h[:, : case.h.shape[1] // 2]),
    "b": lambda case: case._replace(b=case.b[1:]),  # type: ignore[index]
    "s of one image": lambda case: case._replace(s=None if case.s is None else case.s[:1], b=case.b[:1]),  # type: ignore[index]
    "e": lambda case: case._replace(e=case.e[..., 1:]),  # type: ignore[index]
    "double": lambda case: case._replace(h=case.h.double()),
}


@BOTH
@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_do_not_reach_the_kernel(case: Case, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"senet::conv\dx\d_packed: \(.*\) torch.float\d\d; expected: \(.*\)"):
        WRONG[name](case).run()
    with pytest.raises(RuntimeError, match=r"senet::conv\dx\d_packed: "):
        case.operation(case.h, case.packed(), 99, *case.options(), None, True)
    with pytest.raises(RuntimeError, match=r"senet::conv\dx\d_packed: "):
        case.operation(case.h, case.packed()[1:], len(case.w), *case.options(), None, True)


# The 1x1 convolution.


@pytest.mark.parametrize("channels", [32, 33])
def test_nan_and_infinity(channels: int) -> None:
    """As torch's ReLU; a NaN stays at its position."""
    case = pointwise(1, 4, channels, 2, 3)
    case.h[0, 0, 0, 0], case.h[0, 1, 1, 1] = float("nan"), float("inf")
    y = case.run()
    close(y, case.truth(), equal_nan=True)
    assert y[0, :, 0, 0].isnan().all()
    assert not y[0, :, 0, 1:].isnan().any()


def test_large_channels() -> None:
    """Several groups of panels, and sums of a thousand terms to float32's rounding."""
    case = pointwise(1, 1024, 200, 2, 5)
    torch.testing.assert_close(case.run(False).double(), case.truth(False), rtol=1e-5, atol=1e-3)


# The 3x3 convolution.


def test_both_ways_to_share_the_tiles_are_taken() -> None:
    """Chunks of each thread's own need more memory for more threads; one chunk at a time for all does not."""

    def sizes(shape: Sequence[Any]) -> list[int]:
        n, k, c, height, width, _ = shape
        return [conv3x3.scratch_size(n, height, width, k, c, threads) for threads in (1, 2)]

    k = WINOGRAD["tiles of a thread's own"][1]
    one, two = sizes(WINOGRAD["tiles of a thread's own"])
    assert two - k == 2 * (one - k)
    n, k, c, *_ = WINOGRAD["several chunks, shared"]
    one, two = sizes(WINOGRAD["several chunks, shared"])
    assert one == two < 36 * n * 9 * 8 * (k + c)


def test_one_product_by_hand() -> None:
    """A single weight shifts the feature map by one position; everything else is zero, up to rounding."""
    h, w = maps(1, 16, 5, 6), torch.zeros(16, 16, 3, 3)
    w[3, 7, 0, 2] = 2
    y = Case(h, w, None, None, None, (1, 1)).run(False)
    want = torch.zeros(16, 5, 6)
    want[3, 1:, :-1] = 2 * h[0, 7, :-1, 1:]
    torch.testing.assert_close(y[0], want, rtol=0, atol=1e-5)
    assert not y[0, [i for i in range(16) if i != 3]].any()


@pytest.mark.parametrize(("k", "bound"), [(32, 4e-7), (256, 4.5e-7), (1024, 5e-7)])
def test_rounding(k: int, bound: float) -> None:
    """Relative to the norm, behind a ReLU as in a network; it hardly grows with the channels."""
    case = winograd(1, k, 32, 16, 16)
    case = case._replace(h=case.h.relu(), e=None)
    want = case.truth()
    assert 1e-8 < (case.run() - want).norm() / want.norm() < bound


def test_nan_stays_in_its_tiles() -> None:
    """The tiles that it is in are lost, no value of another is, and nothing hides it."""
    case = winograd(2, 16, 16, 12, 12)._replace(e=None)
    case.h[1, 3, 5, 6] = float("nan")
    y, want = case.run(), case.truth()
    assert y[want.isnan()].isnan().all()
    assert not y[0].isnan().any()
    lost = y[1, 0].isnan()
    assert lost[4:8, 4:8].all()
    assert lost.sum() == 16
    close(torch.where(lost, 0, y[1]), torch.where(lost, 0, want[1]))


def in_threads(*calls: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_callers_at_the_same_time() -> None:
    """Each has scratch memory of its own."""
    case = winograd(2, 64, 64, 20, 20)._replace(e=None)
    many = [case._replace(h=case.h * i) for i in range(1, 5)]
    want, right = [each.run(False) for each in many], [0] * 4

    def call(i: int) -> None:
        for _ in range(20):
            right[i] += torch.equal(many[i].run(False), want[i])

    in_threads(*(lambda i=i: call(i) for i in range(4)))  # type: ignore[misc]
    assert right == [20] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scratch_memory_is_float32_whatever_torch_s_default(dtype: torch.dtype) -> None:
    """In a new thread, which has none yet: in a smaller dtype the kernel would write past its end."""
    case, results = winograd(1, 64, 64, 9, 9)._replace(e=None), []
    torch.set_default_dtype(dtype)
    try:
        in_threads(lambda: results.append(case.run(False)))
    finally:
        torch.set_default_dtype(torch.float32)
    close(results[0], case.truth(False))


@pytest.mark.parametrize(("k", "c"), [(12, 16), (16, 20)])
def test_channels_that_fill_no_vector(k: int, c: int) -> None:
    with pytest.raises(RuntimeError, match=rf"{k} to {c} channels; expected: multiples of (8|16)"):
        winograd(1, k, c, 5, 6).run()


def test_a_result_without_positions() -> None:
    case = winograd(1, 16, 16, 5, 6)
    with pytest.raises(RuntimeError, match=r"size|dimension"):
        case._replace(h=case.h[:, :, :1], e=None, padding=(0, 0)).run()
