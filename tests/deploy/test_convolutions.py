"""Which convolutions of a network go to which library on a CPU, and that they are the same there."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from senet.create import create_model
from senet.deploy.optimize import Optimized, optimize
from senet.kernels import dispatch
from tests.compiler import no_compiler
from tests.deploy.same import Each, Fn, error, errors, noise, trained

C = 32


def calls(fast: Optimized) -> Counter[str]:
    """How often each operation is called, also within chains, and the weights of the convolutions in C, as "weight"."""
    graphs = [m for m in fast._run.modules() if isinstance(m, fx.GraphModule)]
    called = [n for m in graphs for n in m.graph.nodes if n.op == "call_function"]
    weights = {n.args[1].target for n in called if "packed" in str(n.target)}
    return Counter(str(n.target) for n in called) + Counter(weight=len(weights))


def conv(c: int = C, kernel: int = 3, **options: Any) -> nn.Module:
    options = {"padding": kernel // 2} | options
    return nn.Conv2d(C, c, kernel, **options)


LAYERS: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "as it is": (True, conv),
    "without bias": (True, lambda: conv(bias=False)),
    "without padding": (True, lambda: conv(padding=0)),
    "padding by name": (True, lambda: conv(padding="same")),
    "wider": (True, lambda: conv(80)),
    "then a ReLU": (True, lambda: nn.Sequential(conv(), nn.ReLU())),
    "then another activation": (True, lambda: nn.Sequential(conv(), nn.SiLU())),
    "in a block": (True, lambda: Fn(lambda m, x: (m.k(x) + x).relu(), k=conv())),
    "a sum that is read": (True, lambda: Fn(lambda m, x: (y := m.k(x) + x).relu() + y, k=conv())),
    "its result is read": (True, lambda: Fn(lambda m, x: (u := m.k(x)).relu() + u, k=conv())),
    "the sum is weighted": (True, lambda: Fn(lambda m, x: torch.add(m.k(x), x, alpha=3), k=conv())),
    "the sum is broadcast": (True, lambda: Fn(lambda m, x: m.k(x) + x.mean((2, 3), True), k=conv())),
    "a sum in place": (True, lambda: Fn(lambda m, x: (m.k(x) + m.a(x)).relu(), k=conv(), a=conv(kernel=5))),
    "without padding, by name": (True, lambda: conv(padding="valid")),
    "twice": (True, lambda: Fn(lambda m, x: m.k(m.k(x).relu()) + x, k=conv())),
    "strided": (False, lambda: conv(stride=2)),
    "dilated": (False, lambda: conv(dilation=2, padding=2)),
    "in groups": (True, lambda: conv(groups=2)),
    "in groups of few": (False, lambda: conv(groups=8)),
    "5x5": (False, lambda: conv(kernel=5)),
    "odd channels": (False, lambda: conv(33)),
    "16 channels": (True, lambda: conv(16)),
    "few channels": (False, lambda: conv(8)),
}


@pytest.fixture
def each() -> nn.Module:
    return trained(Each({name: make() for name, (_, make) in LAYERS.items()})).float()


def needs_compiler() -> None:
    if not dispatch.c_convolutions(torch.device("cpu"), torch.float32):
        pytest.skip("no C compiler")


def places(fast: Optimized) -> set[str]:
    return {where.partition(".")[0] for where in fast.rewrites.winograd}


@torch.no_grad()
def test_which_are_taken(each: nn.Module) -> None:
    needs_compiler()
    x = noise(2, C, 14, 13, dtype=torch.float32)
    fast = optimize(each, x)
    assert places(fast) == {name for name, (taken, _) in LAYERS.items() if taken}
    assert "3x3 convolutions by Winograd's algorithm" in str(fast.rewrites)
    for n in (2, 1, 3):
        x = noise(n, C, 14, 13, seed=n, dtype=torch.float32)
        given = x.clone()
        wrong = {place: e for place, e in errors(fast(given), each(x)).items() if not e < 5e-6}
        assert not wrong
        assert torch.equal(given, x)
    names = calls(fast)
    assert names["senet.conv3x3_packed_.default"] + names["senet.conv3x3_packed.default"] == 18
    # "twice" is packed once.
    assert names["weight"] >= 17


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_padding_that_differs_from_side_to_side() -> None:
    model, x = conv(kernel=2, padding="same").eval(), noise(1, C, 14, 13, dtype=torch.float32)
    assert error(optimize(model, x)(x), model(x)) < 5e-6


@torch.no_grad()
def test_a_map_without_a_batch() -> None:
    model, x = Fn(lambda m, x: m.k(x[0]), k=conv()).eval(), noise(1, C, 14, 13, dtype=torch.float32)
    assert error(optimize(model, x)(x), model(x)) < 5e-6


def test_the_example_decides() -> None:
    """At batch 1 four times the weights do not pay for a feature map of 7x7; at batch 16 they do."""
    needs_compiler()
    model = nn.Conv2d(256, 256, 3, padding=1)
    assert not optimize(model, torch.zeros(1, 256, 7, 7)).rewrites.winograd
    fast = optimize(model, torch.zeros(16, 256, 7, 7))
    assert len(fast.rewrites.winograd) == 1
    x = noise(1, 256, 7, 7, dtype=torch.float32)
    with torch.no_grad():
        assert error(fast(x), model(x)) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left(dtype: torch.dtype) -> None:
    model = conv().to(dtype)
    assert not optimize(model, torch.zeros(1, C, 14, 14, dtype=dtype)).rewrites.winograd


@torch.no_grad()
def test_without_a_compiler(each: nn.Module) -> None:
    """All go to oneDNN, and a warning says once what is missing."""
    x = noise(2, C, 14, 13, dtype=torch.float32)
    with no_compiler(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = [optimize(each, x) for _ in range(2)][1]
    assert [str(w.message).partition(" is")[0] for w in caught if w.category is RuntimeWarning] == ["gates.c"]
    assert not fast.rewrites.winograd
    names = calls(fast)
    assert not any("packed" in name for name in names)
    assert sum(n for name, n in names.items() if "_convolution_pointwise" in name) == len(LAYERS) + 2
    assert not {place: e for place, e in errors(fast(x), each(x)).items() if not e < 5e-6}


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*is not compiled:RuntimeWarning")
def test_a_network_of_basic_blocks() -> None:
    """Its logits stay as near those in float64 as without Winograd's algorithm."""
    needs_compiler()
    model = trained(create_model("se_resnet18", num_classes=10)).float()
    x = noise(2, 3, 64, 64, dtype=torch.float32)
    want = model.double()(x.double())
    model.float()
    fast = optimize(model, x)
    # Those without stride in stages 2 and 3: feature maps of 16x16 and 8x8.
    assert len(fast.rewrites.winograd) == 4 + 3
    with no_compiler():
        direct = optimize(model, x)
    assert not direct.rewrites.winograd
    assert error(fast(x).double(), want) < max(4 * error(direct(x).double(), want), 1e-5)
