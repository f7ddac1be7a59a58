"""Pooling in C, and ECA's gates, against torch's in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import senet
from senet.kernels import dispatch
from tests.kernels.buffers import full_of_nan
from tests.kernels.test_packed import ACTS, close, maps, noise

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)

from senet.kernels.pool import c as pool_c

OPS = torch.ops.senet
assert pool_c.available()
# H, W, kernel, stride, padding.
CASES = {
    "as in ResNet": ((12, 14), (3, 3), (2, 2), (1, 1)),
    "odd, no padding": ((13, 9), (3, 3), (2, 2), (0, 0)),
    "2x2": ((7, 8), (2, 2), (2, 2), (0, 0)),
    "stride 1": ((5, 6), (3, 3), (1, 1), (1, 1)),
    "of two sides": ((9, 7), (4, 3), (3, 2), (2, 1)),
    "windows apart": ((11, 11), (2, 2), (4, 5), (0, 1)),
    "one pixel": ((1, 1), (3, 3), (2, 2), (1, 1)),
    "all": ((6, 5), (6, 5), (1, 1), (0, 0)),
}


def want(h: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], *rest: bool) -> Tensor:
    ceil, mean, counts = rest
    if mean:
        return F.avg_pool2d(h.double(), kernel, stride, padding, ceil, counts)
    return F.max_pool2d(h.double(), kernel, stride, padding, ceil_mode=ceil)


@pytest.mark.parametrize("channels", [1, 7, 16, 101])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES.values(), ids=list(CASES))
def test_equal_to_torch(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], channels: int
) -> None:
    h = maps(2, channels, *size)
    for rest in itertools.product((False, True), repeat=3):
        with full_of_nan():
            y = OPS.pool(h, kernel, stride, padding, *rest)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, want(h, kernel, stride, padding, *rest))
        # Any layout and number of threads gives the same bits.
        before = torch.get_num_threads()
        torch.set_num_threads(3)
        assert torch.equal(OPS.pool(h.contiguous(), kernel, stride, padding, *rest), y)
        torch.set_num_threads(before)


def test_a_maximum_is_nan_where_one_number_is() -> None:
    h = maps(1, 16, 6, 6)
    h[0, 3, 2, 2], h[0, 4] = float("nan"), float("-inf")
    y = OPS.pool(h, (3, 3), (1, 1), (1, 1), False, False, False)
    assert torch.equal(y.isnan(), F.max_pool2d(h, 3, 1, 1).isnan())
    assert bool((y[0, 4] == float("-inf")).all())


@pytest.mark.parametrize(("n", "c", "k"), [(1, 1, 3), (2, 5, 9), (1, 16, 1), (3, 64, 3), (2, 101, 5), (1, 2048, 7)])
def test_channel_gates(n: int, c: int, k: int) -> None:
    z, w = noise(n, c), noise(k, seed=1)
    for gate in ("sigmoid", "hardsigmoid", "none"):
        exact = F.conv1d(z.double()[:, None], w.double()[None, None], padding=k // 2)[:, 0]
        close(OPS.channel_gates(z, w, gate), ACTS[gate](exact))


def test_as_operations_of_torch() -> None:
    tests = ("test_schema", "test_faketensor")
    for rest in itertools.product((False, True), repeat=3):
        arguments = (maps(2, 16, 5, 4), (3, 3), (2, 2), (1, 1), *rest)
        torch.library.opcheck(OPS.pool.default, arguments, test_utils=tests)  # type: ignore[attr-defined]
    torch.library.opcheck(  # type: ignore[attr-defined]
        OPS.channel_gates.default, (noise(2, 16), noise(3), "sigmoid"), test_utils=tests
    )


def test_wrong_sizes_do_not_reach_the_kernel() -> None:
    h = maps(1, 16, 5, 5)
    for kernel, stride, padding in (((6, 3), (1, 1), (0, 0)), ((3, 3), (0, 1), (1, 1)), ((3, 3), (1, 1), (2, 1))):
        with pytest.raises(RuntimeError, match=r"senet::pool: 5x5, kernel .* expected: "):
            OPS.pool(h, kernel, stride, padding, False, False, False)
    with pytest.raises(RuntimeError, match="an odd number"):
        OPS.channel_gates(noise(1, 8), noise(4), "sigmoid")
    with pytest.raises(RuntimeError, match=r"senet::channel_gates: "):
        OPS.channel_gates(noise(1, 8).double(), noise(3), "sigmoid")


class Pools(torch.nn.Module):
    """Poolings of each form, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList([torch.nn.Conv2d(3, 24, 3), torch.nn.Conv2d(24, 24, 1)])
        self.forms = (
            lambda x: F.max_pool2d(x, 3, 2, 1),
            lambda x: F.max_pool2d(x, 2, ceil_mode=True),
            lambda x: F.avg_pool2d(x, 3, 2, 1),
            lambda x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False),
            # Not in C: dilation, and a divisor.
            lambda x: F.max_pool2d(x, 3, 1, 1, dilation=2),
            lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=7),
        )

    def forward(self, x: Tensor) -> Tensor:
        for form in self.forms:
            x = form(self.convs[x.shape[1] == 24](x))
        return x


def test_optimized_networks_pool_as_before() -> None:
    torch.manual_seed(0)
    net, x = Pools().eval(), torch.randn(2, 3, 61, 58)
    fast = senet.optimize(net, x)
    with torch.no_grad():
        close(fast(x), net.double()(x.double()))
