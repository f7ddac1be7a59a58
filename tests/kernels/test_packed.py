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
from senet.kernels.direct import c as direct

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)

OPS = torch.ops.senet
POINTWISE_, WINOGRAD_, DIRECT_ = OPS.conv1x1_packed, OPS.conv3x3_packed, OPS.direct

ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda v: v,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
}

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
# Two panels, or four, of channels; an even number of inputs.
PAIR = 2 * conv1x1.panel()
STRASSEN = {
    "a pair": (1, 16, PAIR, 2, 1),
    "one position, which has none": (3, 8, PAIR, 1, 1),
    "odd positions of some images": (3, 10, 2 * PAIR, 3, 5),
    "inputs of no vector": (2, 6, PAIR, 4, 3),
    "blocks and a rest": (2, 34, PAIR, 13, 11),
    "rows that would collide": (1, 2048, PAIR, 3, 2),
    "no image": (0, 4, PAIR, 3, 3),
}
# N, K, C, H, W and padding.
WINOGRAD = {
    "a tile": (1, 16, 32, 4, 4, (1, 1)),
    "tiles": (2, 32, 16, 8, 12, (1, 1)),
    "cut tiles": (3, 16, 48, 7, 9, (1, 1)),
    "one position": (2, 16, 16, 1, 1, (1, 1)),
    "channels of no vector": (2, 5, 19, 9, 7, (1, 1)),
    "groups of a vector": (1, 32, 16, 9, 6, (1, 1), 2),
    "groups of three vectors": (2, 72, 72, 14, 13, (1, 1), 3),
    "groups of seven vectors": (1, 112, 112, 9, 9, (1, 1), 2),
    "groups of a prime": (2, 21, 33, 10, 11, (1, 0), 3),
    "groups of 4": (1, 40, 40, 13, 17, (1, 1), 10),
    "one row": (1, 16, 32, 1, 30, (1, 1)),
    "no padding": (2, 32, 32, 9, 6, (0, 0)),
    "padding of one side": (1, 16, 16, 6, 5, (0, 1)),
    "wide padding": (1, 16, 16, 3, 2, (3, 5)),
    "tiles of a thread's own": (8, 16, 16, 60, 44, (1, 1)),
    "weights of a megabyte": (3, 176, 144, 13, 10, (1, 1)),
    "several chunks, shared": (2, 160, 160, 33, 29, (1, 1)),
    "no image": (0, 16, 32, 5, 5, (1, 1)),
}
# N, K, C, H, W, padding, groups, kernel and stride.
GROUPED = {
    "a vector": (2, 16, 16, 8, 12, (1, 1), 2, (3, 3), 1),
    "two vectors": (1, 48, 32, 9, 7, (1, 1), 2, (3, 3), 1),
    "three vectors": (1, 48, 48, 14, 14, (1, 1), 2, (3, 3), 2),
    "groups of 4": (2, 24, 24, 7, 9, (1, 1), 6, (3, 3), 1),
    "one channel in, two out": (1, 9, 18, 6, 5, (1, 1), 9, (3, 3), 1),
    "a prime in a group": (3, 26, 38, 5, 11, (2, 1), 2, (3, 3), 2),
    "panels and a rest": (1, 20, 140, 6, 6, (1, 1), 2, (3, 3), 1),
    "one group": (2, 10, 21, 9, 8, (1, 1), 1, (3, 3), 2),
    "first layer": (2, 3, 16, 23, 18, (1, 1), 1, (3, 3), 2),
    "first layer, 7x7": (1, 3, 64, 31, 29, (3, 3), 1, (7, 7), 2),
    "strided 1x1": (2, 19, 40, 7, 10, (0, 0), 1, (1, 1), 2),
    "an oblong kernel": (1, 12, 8, 9, 9, (0, 2), 2, (1, 5), 1),
    "one position": (2, 16, 16, 1, 1, (1, 1), 2, (3, 3), 1),
    "wide padding": (1, 8, 8, 3, 2, (5, 6), 2, (3, 3), 3),
    "many bands": (1, 64, 16, 70, 60, (1, 1), 2, (3, 3), 1),
    "no image": (0, 8, 8, 5, 5, (1, 1), 2, (3, 3), 1),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape: int, seed: int = 0) -> Tensor:
    return noise(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


class Case(NamedTuple):
    """A convolution and its arguments; s and g are the gates of the 1x1 one, padding and groups are of the others."""

    operation: Callable[..., Tensor]
    h: Tensor
    w: Tensor
    b: Tensor | None
    s: Tensor | None
    e: Tensor | None
    padding: tuple[int, int] = (0, 0)
    g: Tensor | None = None
    groups: int = 1
    stride: int = 1
    planar: bool = False
    is_fast: bool = False

    @property
    def is_pointwise(self) -> bool:
        return self.operation is POINTWISE_

    def options(self) -> tuple[Any, ...]:
        """The arguments between the weight and e."""
        if self.is_pointwise:
            return self.g, self.b, self.s
        if self.operation is WINOGRAD_:
            return self.groups, self.padding, self.b
        return self.groups, tuple(self.w.shape[2:]), self.stride, self.padding, self.planar, None, self.b

    def packed(self) -> Tensor:
        if self.is_pointwise:
            return (conv1x1.pack_fast if self.is_fast else conv1x1.pack)(self.w)
        if self.operation is WINOGRAD_:
            return conv3x3.pack(self.w, self.groups)
        return direct.pack(self.w, self.groups, planar=self.planar)

    @property
    def in_place(self) -> Any:
        return {POINTWISE_: OPS.conv1x1_packed_, WINOGRAD_: OPS.conv3x3_packed_, DIRECT_: OPS.direct_}[self.operation]

    def run(self, act: str = "relu") -> Tensor:
        return self.operation(self.h, self.packed(), len(self.w), *self.options(), self.e, act)

    def run_(self, act: str = "relu") -> None:
        """Write into e."""
        assert self.in_place(self.h, self.packed(), *self.options(), self.e, act) is None

    def truth(self, act: str = "relu") -> Tensor:
        bias = None if self.b is None else self.b.double()
        h = self.h.double() if self.g is None else self.h.double() * self.g.double()[..., None, None]
        y = F.conv2d(h, self.w.double(), bias, self.stride, self.padding, groups=self.groups)
        y = y if self.s is None else y * self.s.double()[..., None, None]
        y = y if self.e is None else y + self.e.double()
        return ACTS[act](y)


def pointwise(n: int, k: int, c: int, height: int, width: int) -> Case:
    b, s, e, g = noise(c, seed=2), noise(n, c, seed=3), maps(n, c, height, width, seed=4), noise(n, k, seed=5)
    return Case(POINTWISE_, maps(n, k, height, width), noise(c, k, 1, 1, seed=1), b, s, e, g=g)


def strassen(n: int, k: int, *sizes: int) -> Case:
    case = pointwise(n, k, *sizes)
    return case._replace(w=case.w / k**0.5, is_fast=True)


def winograd(
    n: int, k: int, c: int, height: int, width: int, padding: tuple[int, int] = (1, 1), groups: int = 1
) -> Case:
    size = (height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
    w = noise(c, k // groups, 3, 3, seed=1) / (3 * k**0.5)
    e = maps(n, c, *size, seed=4)
    return Case(WINOGRAD_, maps(n, k, height, width), w, noise(c, seed=2), None, e, padding, groups=groups)


def grouped(
    n: int,
    k: int,
    c: int,
    height: int,
    width: int,
    padding: tuple[int, int],
    groups: int,
    kernel: tuple[int, int],
    stride: int,
) -> Case:
    sizes = zip((height, width), padding, kernel, strict=True)
    e = maps(n, c, *((d + 2 * p - a) // stride + 1 for d, p, a in sizes), seed=4)
    w = noise(c, k // groups, *kernel, seed=1) / (kernel[0] * kernel[1] * k / groups) ** 0.5
    h = maps(n, k, height, width)
    return Case(DIRECT_, h, w, noise(c, seed=2), None, e, padding, groups=groups, stride=stride)


CASES = {f"1x1 {name}": pointwise(*sizes) for name, sizes in POINTWISE.items()}
CASES |= {f"Strassen {name}": strassen(*sizes) for name, sizes in STRASSEN.items()}
CASES |= {f"3x3 {name}": winograd(*sizes) for name, sizes in WINOGRAD.items()}
CASES |= {f"direct {name}": grouped(*sizes) for name, sizes in GROUPED.items()}
for name in ("first layer", "first layer, 7x7", "a prime in a group"):
    case = CASES[f"direct {name}"]
    CASES[f"direct {name}, planar"] = case._replace(h=case.h.contiguous(), planar=True)
    CASES[f"direct {name}, other strides"] = case._replace(planar=True)
SMALL = pointwise(2, 6, 35, 3, 5), winograd(2, 16, 32, 5, 7, (1, 0)), grouped(2, 14, 26, 5, 7, (1, 0), 2, (3, 3), 2)
EACH = pytest.mark.parametrize("case", SMALL, ids=["1x1", "3x3", "direct"])


def close(y: Tensor, want: Tensor, equal_nan: bool = False) -> None:
    """To the rounding of float32 sums; those of Winograd's algorithm are some ten times their result."""
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-5, equal_nan=equal_nan)


@pytest.mark.parametrize("name", CASES)
def test_every_epilogue(name: str) -> None:
    whole = CASES[name]
    gates = (True, False) if whole.is_pointwise else (False,)
    both = (True, False)
    for with_g, with_b, with_s, with_e, act in itertools.product(gates, both, gates, both, ("relu", "none")):
        case = whole._replace(
            g=whole.g if with_g else None,
            b=whole.b if with_b else None,
            s=whole.s if with_s else None,
            e=whole.e if with_e else None,
        )
        y = case.run(act)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, case.truth(act))
        if case.e is not None:
            case = case._replace(e=case.e.clone(memory_format=torch.preserve_format))
            case.run_(act)
            assert torch.equal(case.e, y)  # type: ignore[arg-type]


@EACH
@pytest.mark.parametrize("act", ACTS)
def test_activations(case: Case, act: str) -> None:
    """Also far out, where exponentials overflow; NaN stays NaN."""
    case = case._replace(b=torch.linspace(-100, 100, len(case.w)), h=case.h.clone(memory_format=torch.preserve_format))
    close(case.run(act), case.truth(act))
    case.h[0, 0, 0, 0] = float("nan")
    assert case.run(act)[0, : len(case.w) // case.groups, 0, 0].isnan().all()


@EACH
def test_an_activation_that_is_none(case: Case) -> None:
    with pytest.raises(RuntimeError, match=r"act: 'tanh' is not known; expected: one of none, relu"):
        case.run("tanh")


@EACH
def test_other_memory_formats(case: Case) -> None:
    want = case.truth()
    s = None if case.s is None else case.s.t().contiguous().t()
    b, e = torch.stack((case.b, case.b), 1)[:, 0], case.e.contiguous()  # type: ignore[arg-type, union-attr]
    g = None if case.g is None else case.g.t().contiguous().t()
    case = case._replace(h=case.h.contiguous(), b=b, s=s, e=e, g=g)
    close(case.run(), want)
    case.run_()
    assert e.is_contiguous()
    close(e, want)


@pytest.mark.parametrize(
    "case",
    [
        pointwise(2, 16, 67, 13, 11),
        strassen(*STRASSEN["blocks and a rest"]),
        *(winograd(*WINOGRAD[name]) for name in ("cut tiles", "tiles of a thread's own", "several chunks, shared")),
        winograd(*WINOGRAD["groups of three vectors"]),
        *(grouped(*GROUPED[name]) for name in ("many bands", "first layer")),
    ],
    ids=["1x1", "Strassen", "cut tiles", "own tiles", "shared chunks", "groups", "bands", "first layer"],
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


def test_strassens_algorithm_takes_whole_halves() -> None:
    packed = conv1x1.pack_fast(noise(PAIR, 8, 1, 1))
    for k, c in ((9, PAIR), (8, PAIR + 1)):
        with pytest.raises(
            RuntimeError, match=rf"{k} to {c} channels; expected by Strassen's algorithm: an even number"
        ):
            POINTWISE_(maps(1, k, 2, 2), packed, c, None, None, None, None, "none")


def test_strassens_algorithm_mixes_no_images() -> None:
    """Each image has the bits that it has alone, and NaN of one stays in it."""
    case = strassen(*STRASSEN["odd positions of some images"])
    y = case.run()
    alone = case._replace(h=case.h[1:2], g=case.g[1:2], s=case.s[1:2], e=case.e[1:2])  # type: ignore[index]
    assert torch.equal(alone.run(), y[1:2])
    case.h[0, :, 0, 0] = float("nan")
    assert torch.equal(case.run()[1:], y[1:])


@EACH
@pytest.mark.parametrize("with_e", [True, False])
def test_as_operations_of_torch(case: Case, with_e: bool) -> None:
    tests = ("test_schema", "test_faketensor")
    case = case if with_e else case._replace(e=None)
    arguments = (case.h, case.packed(), len(case.w), *case.options(), case.e, "relu")
    torch.library.opcheck(case.operation.default, arguments, test_utils=tests)  # type: ignore[attr-defined]
    if with_e:
        torch.library.opcheck(case.in_place.default, (*arguments[:2], *arguments[3:]), test_utils=tests)


WRONG: dict[str, Callable[[Case], Case]] = {
    "h": lambda case: case._replace(h=case.h[:, : case.h.shape[1] // 2]),
    "b": lambda case: case._replace(b=case.b[1:]),  # type: ignore[index]
    "s of one image": lambda case: case._replace(s=None if case.s is None else case.s[:1], b=case.b[:1]),  # type: ignore[index]
    "e": lambda case: case._replace(e=case.e[..., 1:]),  # type: ignore[index]
    "double": lambda case: case._replace(h=case.h.double()),
}


@EACH
@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_do_not_reach_the_kernel(case: Case, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"senet::\w+: .*; expected: "):
        WRONG[name](case).run()
    with pytest.raises(RuntimeError, match=r"senet::\w+: "):
        case.operation(case.h, case.packed(), 99, *case.options(), None, "relu")
    with pytest.raises(RuntimeError, match=r"senet::\w+: "):
        case.operation(case.h, case.packed()[1:], len(case.w), *case.options(), None, "relu")


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
    torch.testing.assert_close(case.run("none").double(), case.truth("none"), rtol=1e-5, atol=1e-3)


# The 3x3 convolution.


def test_both_ways_to_share_the_tiles_are_taken() -> None:
    """Chunks of each thread's own need more memory for more threads; one chunk at a time for all does not."""

    def sizes(shape: Sequence[Any]) -> list[int]:
        n, k, c, height, width, _ = shape
        return [conv3x3.scratch_size(n, height, width, k, c, 1, threads) for threads in (1, 2)]

    one, two = sizes(WINOGRAD["tiles of a thread's own"])
    assert two == 2 * one
    n, k, c, *_ = WINOGRAD["several chunks, shared"]
    one, two = sizes(WINOGRAD["several chunks, shared"])
    assert one == two < 36 * n * 9 * 8 * (k + c)


def test_one_product_by_hand() -> None:
    """A single weight shifts the feature map by one position; everything else is zero, up to rounding."""
    h, w = maps(1, 16, 5, 6), torch.zeros(16, 16, 3, 3)
    w[3, 7, 0, 2] = 2
    y = Case(WINOGRAD_, h, w, None, None, None, (1, 1)).run("none")
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
    want, right = [each.run("none") for each in many], [0] * 4

    def call(i: int) -> None:
        for _ in range(20):
            right[i] += torch.equal(many[i].run("none"), want[i])

    in_threads(*(lambda i=i: call(i) for i in range(4)))  # type: ignore[misc]
    assert right == [20] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scratch_memory_is_float32_whatever_torch_s_default(dtype: torch.dtype) -> None:
    """In a new thread, which has none yet: in a smaller dtype the kernel would write past its end."""
    case, results = winograd(1, 64, 64, 9, 9)._replace(e=None), []
    torch.set_default_dtype(dtype)
    try:
        in_threads(lambda: results.append(case.run("none")))
    finally:
        torch.set_default_dtype(torch.float32)
    close(results[0], case.truth("none"))


def test_a_result_without_positions() -> None:
    case = winograd(1, 16, 16, 5, 6)
    with pytest.raises(RuntimeError, match=r"size|dimension"):
        case._replace(h=case.h[:, :, :1], e=None, padding=(0, 0)).run()


# Groups.


def test_narrow_groups_become_one() -> None:
    """As many as fill a vector register, if they divide the groups; the function stays the same."""
    for channels, groups in ((32, 8), (24, 6), (14, 7), (64, 2), (36, 12)):
        w = noise(channels, channels // groups, 3, 3)
        merged, fewer = direct.merged(w, groups)
        h = noise(1, channels, 6, 5).double()
        close(F.conv2d(h, merged.double(), groups=fewer), F.conv2d(h, w.double(), groups=groups))
        assert groups % fewer == 0
        assert merged.shape == (channels, channels // fewer, 3, 3)
    assert direct.merged(noise(16, 2, 3, 3), 8)[1] < 8


def test_a_wrong_order_of_channels_does_not_reach_the_kernel() -> None:
    h, w = maps(1, 6, 4, 4), noise(6, 2, 1, 1)
    order, options = torch.tensor([0, 3, 1, 4, 2, 5], dtype=torch.int32), ((1, 1), 1, (0, 0))
    packed = direct.pack(w, 3)
    close(
        OPS.direct(h, packed, 6, 3, *options, False, order, None, None, "none"),
        F.conv2d(h[:, order].double(), w.double(), groups=3),
    )
    for wrong in (order.long(), order[:5], order + 1, order * 0):
        with pytest.raises(RuntimeError, match=r"senet::direct: order .*expected: a permutation \(6,\)"):
            OPS.direct(h, packed, 6, 3, *options, False, wrong, None, None, "none")
