"""Channel shuffles move behind depthwise convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.blocks.mobile import shuffle
from senet.kernels import dispatch
from tests.deploy.same import Each
from tests.kernels.test_packed import close


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, perhaps a squeeze, and a 1x1 in some groups."""

    def __init__(self, groups: int, of_last: int, *, gated: bool = False, twice: bool = False) -> None:
        super().__init__()
        self.groups, self.gated, self.twice = groups, gated, twice
        self.first = nn.Conv2d(24, 60, 1, groups=groups)
        self.depthwise = nn.Conv2d(60, 60, 3, padding=1, groups=60)
        self.last = nn.Conv2d(60, 24, 1, groups=of_last)
        self.fc1, self.fc2 = nn.Linear(60, 6), nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        h = shuffle(self.first(x), self.groups)
        u = self.depthwise(h)
        y = self.last(u)
        if self.gated:
            y = y * self.fc2(self.fc1(u.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return y + h[:, :24] if self.twice else y


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("gated", [False, True])
def test_the_same_function(*, gated: bool, compile: bool) -> None:
    torch.manual_seed(0)
    units = {f"{groups} {of_last}": Unit(groups, of_last, gated=gated) for groups in (2, 3) for of_last in (1, 3, 4)}
    net, x = Each(units).eval(), torch.randn(2, 24, 9, 7)
    fast = senet.optimize(net, x, compile=compile)(x)
    with torch.no_grad():
        for name, want in net.double()(x.double()).items():
            close(fast[name], want)


def test_a_shuffle_that_something_else_reads_stays() -> None:
    torch.manual_seed(0)
    net, x = Unit(3, 3, twice=True).eval(), torch.randn(2, 24, 9, 7)
    fast = senet.optimize(net, x)
    with torch.no_grad():
        close(fast(x), net.double()(x.double()))


@pytest.mark.skipif(not dispatch.c_convolutions(torch.device("cpu"), torch.float32), reason="no C compiler")
def test_no_copy_is_left() -> None:
    net, x = Unit(3, 3, gated=True).eval(), torch.randn(1, 24, 9, 7).contiguous(memory_format=torch.channels_last)
    fast = senet.optimize(net, x)
    with torch.profiler.profile() as profile:
        fast(x)
    assert not [event.key for event in profile.key_averages() if event.key == "aten::clone"]
