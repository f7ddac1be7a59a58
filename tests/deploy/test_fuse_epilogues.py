"""Block ends in one operation and results in place: right although somebody still reads what could be written over.

Each network runs by torch's own operations in float64 and, where there is a C compiler, by the C kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet.deploy.optimize import Optimized, optimize
from senet.kernels.conv1x1.c import available
from tests.compiler import no_compiler
from tests.deploy.same import Each, Fn, errors, noise, same, trained

C = 6


def se(m: Any, u: Tensor) -> Tensor:
    return u * m.l(u.mean((2, 3))).sigmoid()[..., None, None]


def chain(m: Any, x: Tensor) -> Tensor:
    for _ in range(3):
        x = (se(m, m.a(m.k(x).relu())) + x).relu()
    return x


def shortcut_is_read_later(m: Any, x: Tensor) -> Tensor:
    e = m.k(x)
    return (se(m, m.a(m.k(x))) + e).relu() + 3 * e


def shortcut_is_an_output(m: Any, x: Tensor) -> dict[str, Tensor]:
    e = m.k(x).relu()
    y = (se(m, m.a(e)) + e).relu()
    return {"e": e, "y": y, "again": y}


def gated_map_is_an_output(m: Any, x: Tensor) -> list[Tensor]:
    u = m.a(x)
    p = se(m, u)
    return [p, (p + m.k(x)).relu(), u]


def sum_is_read(m: Any, x: Tensor) -> Tensor:
    y = se(m, m.a(x)) + m.k(x)
    return y.relu() + y


def shortcut_is_the_input(m: Any, x: Tensor) -> Tensor:
    return (se(m, m.a(x)) + x).relu()


def shortcut_is_what_the_convolution_reads(m: Any, x: Tensor) -> Tensor:
    h = m.k(x).relu()
    return m.a(h) + h


def shortcut_is_what_a_wider_convolution_reads(m: Any, x: Tensor) -> Tensor:
    h = m.k(x).relu()
    return m.k(h) + h


def convolution_is_broadcast(m: Any, x: Tensor) -> Tensor:
    return m.k(x) + m.a(x.mean((2, 3), keepdim=True))


def shortcut_is_of_another_type(m: Any, x: Tensor) -> Tensor:
    return se(m, m.a(x)) + x.half()


def a_sum_before_another_convolution_is_moved(m: Any, x: Tensor) -> Tensor:
    """The same without gates, the convolution of the first sum running first."""
    h, g = m.k(x).relu(), m.k(x + 1).relu()
    v, u = m.k(g), m.k(h)
    return (u + (v + h)).relu()


def a_sum_before_the_convolution_is_moved(m: Any, x: Tensor) -> Tensor:
    """The first sum could go into h, were h not read by the convolution that moves to the second."""
    h, g = m.k(x).relu(), m.k(x + 1).relu()
    u = m.a(h)
    return (se(m, u) + (m.b(g) + h)).relu()


def shortcut_is_seen_through_a_view(m: Any, x: Tensor) -> Tensor:
    e = m.k(x)
    half, _ = e.chunk(2, 1)
    y = (se(m, m.a(x)) + e).relu()
    return y[:, : C // 2] * half


def both_sides_are_gated(m: Any, x: Tensor) -> Tensor:
    return (se(m, m.a(x)) + se(m, m.b(x))).relu()


def both_sides_are_one(m: Any, x: Tensor) -> Tensor:
    p = se(m, m.a(x))
    return (p + p).relu() + (u := m.b(x)) + u


def of_itself(m: Any, x: Tensor) -> Tensor:
    u = m.a(x)
    return (u + se(m, u)).relu()


def one_gate_for_the_batch(m: Any, x: Tensor) -> Tensor:
    """A gate (1, C, 1, 1), of every image."""
    return ((u := m.a(x)) * u.mean((2, 3), True).mean(0, True).sigmoid() + m.k(x)).relu()


def weighted(m: Any, x: Tensor) -> Tensor:
    return torch.add(se(m, m.a(x)), m.k(x), alpha=3)


def broadcast(m: Any, x: Tensor) -> Tensor:
    return (se(m, m.a(x)) + m.k(x).mean(3, keepdim=True)).relu()


ENDS: dict[Callable[..., Any], int] = {
    chain: 3,
    shortcut_is_read_later: 1,
    shortcut_is_an_output: 1,
    gated_map_is_an_output: 0,
    sum_is_read: 1,
    shortcut_is_the_input: 1,
    shortcut_is_what_the_convolution_reads: 0,
    shortcut_is_what_a_wider_convolution_reads: 0,
    convolution_is_broadcast: 0,
    shortcut_is_of_another_type: 0,
    a_sum_before_the_convolution_is_moved: 1,
    a_sum_before_another_convolution_is_moved: 0,
    shortcut_is_seen_through_a_view: 1,
    both_sides_are_gated: 1,
    both_sides_are_one: 1,
    of_itself: 1,
    one_gate_for_the_batch: 0,
    weighted: 0,
    broadcast: 0,
}


IN_PLACE: dict[str, Callable[..., Any]] = {
    "transposed": lambda m, x: (u := m.k(x)) * u.transpose(2, 3),
    "a view is read": lambda m, x: (u := m.k(x)).relu() + u.flatten(1).flip(1).view(u.shape),
    "its square": lambda m, x: (u := m.k(x)) * u,
    "the input": lambda m, x: (x * 2).relu() + x.relu(),
    "einsum": lambda m, x: torch.einsum("nchw->nchw", u := m.k(x)).relu() + u,
    "type_as": lambda m, x: (u := m.k(x)).type_as(x).relu() + u,
    "dropout": lambda m, x: nn.functional.dropout(u := m.k(x), 0.5, m.training).relu() + u,
    "chunks": lambda m, x: (lambda u: [v.relu() for v in u.chunk(2, 1)] + [u])(m.k(x)),
    "written by the network": lambda m, x: m.k(x).relu_().add_(1).mul_(x),
    "wider": lambda m, x: m.k(x).float().relu() * x.float(),
}


def network(function: Callable[..., Any]) -> nn.Module:
    layers = {"a": nn.Conv2d(C, C, 1), "b": nn.Conv2d(C, C, 1), "k": nn.Conv2d(C, C, 3, padding=1)}
    return Fn(function, l=nn.Linear(C, C), **layers)


def every_end() -> nn.Module:
    return Each({function.__name__: network(function) for function in ENDS})


def fused(fast: Optimized) -> dict[Callable[..., Any], int]:
    counts = Counter(fast.rewrites.fused)
    return {function: counts[function.__name__] for function in ENDS}


def test_ends() -> None:
    assert fused(same(every_end(), C, 5, 7)) == ENDS


@pytest.mark.filterwarnings("ignore:.*is not compiled:RuntimeWarning")
@pytest.mark.parametrize("has_compiler", [True, False])
def test_ends_in_float32(has_compiler: bool) -> None:
    """By the kernel in C, which takes sums without gates as well; else by oneDNN, which has sums of its own."""
    if has_compiler and not available():
        pytest.skip("no C compiler")
    model = trained(every_end()).float()
    x = noise(2, C, 5, 7, dtype=torch.float32)
    with nullcontext() if has_compiler else no_compiler():
        fast = optimize(model, x)
    with torch.no_grad():
        for _ in range(2):
            found = errors(fast(x.clone()), model(x.clone()))
            assert not {place: e for place, e in found.items() if not e < 1e-5}
    without = {shortcut_is_what_the_convolution_reads: 1, a_sum_before_the_convolution_is_moved: 2}
    assert fused(fast) == (ENDS | without if has_compiler else ENDS)


def test_a_constant_is_not_written_over() -> None:
    """Not even one of an operation's name, in a network of one batch size."""
    model = Fn(lambda m, x: (m.mean + x.reshape(1, 3, 4, 4)).relu())
    model.register_buffer("mean", noise(1, 3, 4, 4))
    same(model, 3, 4, 4, batches=[1])


def test_results_in_place() -> None:
    same(Each({name: network(function) for name, function in IN_PLACE.items()}), C, 5, 5, bound=1e-6)
