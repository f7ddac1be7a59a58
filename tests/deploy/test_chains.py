"""Inverted residuals and other blocks as chains of kernels in C: the same function, in any thread, of any size."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.deploy.graph import operation
from senet.deploy.optimize import Optimized, optimize
from senet.kernels import dispatch
from senet.kernels.replay import MOST, Chain
from tests.deploy.same import Fn, error, noise, trained

if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
    pytest.skip("no C compiler", allow_module_level=True)


def conv(k: int, c: int, kernel: int = 1, act: type[nn.Module] = nn.Identity, **options: Any) -> nn.Module:
    layer = nn.Conv2d(k, c, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(c), act())


def unit(c: int, act: type[nn.Module] = nn.ReLU, gate: type[nn.Module] = nn.Sigmoid) -> nn.Module:
    excite = nn.Sequential(nn.Conv2d(c, c // 4, 1), act(), nn.Conv2d(c // 4, c, 1), gate())
    return Fn(lambda m, x: x * m.excite(x.mean((2, 3), keepdim=True)), excite=excite)


def inverted(k: int, c: int, *, stride: int = 1, kernel: int = 3, act: type[nn.Module] = nn.SiLU) -> nn.Module:
    body = nn.Sequential(
        conv(k, 4 * k, act=act),
        conv(4 * k, 4 * k, kernel, act, stride=stride, groups=4 * k),
        unit(4 * k, act),
        conv(4 * k, c),
    )
    is_sum = stride == 1 and k == c
    return Fn(lambda m, x: m.body(x) + x if is_sum else m.body(x), body=body)


NETS: dict[str, Callable[[], nn.Module]] = {
    "inverted residuals": lambda: nn.Sequential(
        inverted(16, 16), inverted(16, 24, stride=2, kernel=5), inverted(24, 24)
    ),
    "hard-swish": lambda: nn.Sequential(inverted(16, 16, act=nn.Hardswish), inverted(16, 16, act=nn.ReLU6)),
    "a result in the middle": lambda: Fn(
        lambda m, x: (y := m.a(x), m.b(y), m.b(y).mean((2, 3))), a=inverted(16, 16), b=inverted(16, 16)
    ),
    "groups": lambda: nn.Sequential(
        conv(16, 48, act=nn.ReLU),
        conv(48, 48, 3, nn.ReLU, groups=2),
        unit(48),
        conv(48, 48, 3, nn.ReLU, stride=2, groups=12),
        conv(48, 24, stride=2),
    ),
    "torch between": lambda: nn.Sequential(inverted(16, 16), nn.MaxPool2d(2), inverted(16, 16)),
    "an input that is added late": lambda: Fn(
        lambda m, x: m.b(m.a(x)) + x, a=conv(16, 32, act=nn.ReLU), b=conv(32, 16)
    ),
    "gates before a depthwise convolution": lambda: nn.Sequential(
        conv(16, 32, act=nn.ReLU), unit(32), conv(32, 32, 3, nn.ReLU6, groups=32), unit(32), conv(32, 24)
    ),
    "linear layers": lambda: Fn(
        lambda m, x: m.k(x * m.f(x.mean((2, 3)))[..., None, None]),
        f=nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid()),
        k=nn.Sequential(conv(16, 32), conv(32, 32, 3, groups=32)),
    ),
}


@cache
def made(name: str) -> tuple[nn.Module, Optimized]:
    """A network, and what becomes of it."""
    torch.manual_seed(0)
    model = trained(NETS[name]()).float()
    return model, optimize(model, noise(1, 16, 15, 14, dtype=torch.float32))


def chains(fast: Optimized) -> list[Chain]:
    return [m for m in fast._run.modules() if isinstance(m, Chain)]


@torch.no_grad()
def test_a_classifier_is_part_of_the_chain() -> None:
    """Mean, 1x1 convolution of what it returns, views and fully connected layers: no call between."""
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), conv(24, 70, act=nn.Hardswish), nn.Flatten(), nn.Linear(70, 9), nn.ReLU()
    )
    model = trained(nn.Sequential(inverted(16, 24), head, nn.Linear(9, 5, bias=False))).float()
    fast = optimize(model, noise(2, 16, 9, 9, dtype=torch.float32))
    assert [n.op for n in fast._run.graph.nodes].count("call_module") == len(chains(fast)) == 1
    assert {operation(n) for n in fast._run.graph.nodes if n.op == "call_function"} == {"contiguous", "getitem"}
    for size in ((2, 16, 9, 9), (1, 16, 9, 9), (7, 16, 13, 8)):
        x = noise(*size, dtype=torch.float32)
        assert error(fast(x), model(x)) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_same_function(name: str) -> None:
    """Of several sizes and batches, each twice: what was recorded for one is not used for another."""
    model, fast = made(name)
    assert chains(fast)
    for seed in (1, 2):
        for size in ((1, 16, 15, 14), (3, 16, 15, 14), (2, 16, 9, 20)):
            x = noise(*size, seed=seed, dtype=torch.float32)
            given = x.clone()
            assert error(fast(given), model(x)) < 2e-5
            assert torch.equal(given, x)


@torch.no_grad()
def test_images_of_any_strides() -> None:
    """A first layer reads them as they are."""
    model = trained(nn.Sequential(conv(3, 16, 3, nn.SiLU, stride=2), conv(16, 24))).float()
    images = noise(2, 3, 23, 18, dtype=torch.float32)
    wide = noise(2, 3, 23, 40, dtype=torch.float32)
    cases = {
        "contiguous": images,
        "channels-last": images.contiguous(memory_format=torch.channels_last),
        "turned": images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
        "a part": wide[..., 3:21],
        "one image twice": images[:1].expand(2, 3, 23, 18),
    }
    for example in cases.values():
        fast = optimize(model, example)
        assert chains(fast)
        assert not [n for n in fast._run.graph.nodes if n.target is torch.ops.aten.contiguous.default]
        for x in cases.values():
            assert error(fast(x), model(x)) < 2e-5


@torch.no_grad()
def test_a_wide_expansion_is_computed_row_by_row() -> None:
    model = trained(nn.Sequential(inverted(16, 16), inverted(16, 24, stride=2, kernel=5))).float()
    fast = optimize(model, noise(1, 16, 50, 48, dtype=torch.float32))
    (chain,) = chains(fast)
    names = [str(n.target) for n in chain.graph.graph.nodes if n.op == "call_function"]
    assert names.count("senet.expanded_depthwise.default") == 2
    for size in ((1, 16, 50, 48), (3, 16, 7, 9), (2, 16, 1, 1)):
        x = noise(*size, dtype=torch.float32)
        assert error(fast(x), model(x)) < 2e-5


@torch.no_grad()
def test_gates_before_a_depthwise_convolution_cost_no_pass() -> None:
    (chain,) = chains(made("gates before a depthwise convolution")[1])
    names = [operation(n) for n in chain.graph.graph.nodes if n.op == "call_function"]
    assert "gated" not in names
    assert (names.count("depthwise_squeeze"), names.count("gates")) == (1, 2)


@torch.no_grad()
def test_two_inputs_that_were_one_tensor_at_first() -> None:
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(16, 32), conv(16, 32)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.a(a) - self.b(b)

    model = trained(Siamese()).float()
    both = (noise(1, 16, 8, 8, seed=i, dtype=torch.float32) for i in (1, 2))
    x, y = (t.contiguous(memory_format=torch.channels_last) for t in both)
    fast = optimize(model, (x, x))
    for images in ((x, x), (x, y), (y, x)):
        assert error(fast(*images), model(*images)) < 2e-5


@torch.no_grad()
def test_results_are_not_written_over() -> None:
    _, fast = made("a result in the middle")
    x = noise(1, 16, 8, 8, dtype=torch.float32)
    first = fast(x)
    kept = [t.clone() for t in first]
    fast(-x)
    assert all(map(torch.equal, first, kept))


@torch.no_grad()
def test_threads_and_more_sizes_than_are_kept() -> None:
    _, fast = made("inverted residuals")
    images = [noise(1 + i % 3, 16, 8 + i, 12, seed=i, dtype=torch.float32) for i in range(MOST + 3)]
    want = [fast(x) for x in images]
    wrong: list[int] = []

    @torch.no_grad()
    def serve(start: int) -> None:
        for i in (*range(start, len(images)), *range(start)):
            if not torch.equal(fast(images[i]), want[i]):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(0, 8, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@torch.no_grad()
def test_memory_is_used_again() -> None:
    """Four blocks work in no more memory than two."""

    def planned(blocks: int) -> int:
        model = trained(nn.Sequential(*(inverted(16, 16) for _ in range(blocks)))).float()
        fast = optimize(model, noise(1, 16, 16, 16, dtype=torch.float32))
        fast(noise(1, 16, 16, 16, dtype=torch.float32))
        (chain,) = chains(fast)
        (made,) = chain._kept.recordings.values()
        return sum(map(len, made.blocks))

    assert planned(4) == planned(2)


def test_what_is_fused() -> None:
    """A whole network of inverted residuals is one call: no operation of torch between its kernels."""
    _, fast = made("inverted residuals")
    calls = [n for n in fast._run.graph.nodes if n.op == "call_function" and "senet" in str(n.target)]
    assert not calls
    (chain,) = chains(fast)
    names = [str(n.target) for n in chain.graph.graph.nodes if n.op == "call_function"]
    for name, count in (("depthwise_squeeze", 3), ("gates", 3), ("conv1x1_packed", 6)):
        assert sum(f"senet.{name}.default" == n for n in names) == count
    assert [t for t in ("3 depthwise convolutions in C",) if t not in str(fast.rewrites)] == []
