"""Norms and factors into the layers before them, one small network for each way that it can go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.deploy.same import Each, Fn, same

CONV = nn.Conv2d(3, 6, 3, padding=1)
NORM = nn.BatchNorm2d(6)


def two(first: Any, second: Any) -> Any:
    return nn.Sequential(first, second)


FOLDED: dict[str, tuple[Any, tuple[int, ...]]] = {
    "bias": (two(CONV, NORM), (3, 5, 7)),
    "no bias": (two(nn.Conv2d(3, 6, 3, bias=False), NORM), (3, 5, 7)),
    "no affine": (two(CONV, nn.BatchNorm2d(6, affine=False)), (3, 5, 7)),
    "epsilon": (two(CONV, nn.BatchNorm2d(6, eps=0.3)), (3, 5, 7)),
    "same padding": (two(nn.Conv2d(3, 6, 3, padding="same"), NORM), (3, 5, 7)),
    "reflected": (two(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), NORM), (3, 5, 7)),
    "groups": (two(nn.Conv2d(4, 6, 3, stride=2, groups=2), NORM), (4, 7, 6)),
    "depthwise": (two(nn.Conv2d(6, 6, 3, dilation=2, groups=6), NORM), (6, 7, 6)),
    "one_d": (two(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)), (3, 9)),
    "3-D": (two(nn.Conv3d(3, 6, 3), nn.BatchNorm3d(6)), (3, 4, 5, 6)),
    "linear": (Fn(lambda m, x: m.n(m.l(x.mean((2, 3)))), l=nn.Linear(3, 6), n=nn.BatchNorm1d(6)), (3, 4, 5)),
}


@pytest.mark.parametrize("shape", sorted({shape for _, shape in FOLDED.values()}), ids=str)
def test_a_norm_is_folded(shape: tuple[int, ...]) -> None:
    nets = {name: net for name, (net, of_net) in FOLDED.items() if of_net == shape}
    fast = same(Each(nets), *shape)
    assert [where.split(".")[0] for where in fast.rewrites.folded] == list(nets)
    assert not fast.rewrites.skipped
    assert not any("norm" in str(node.target) for node in fast.module.graph.nodes)


def all_of_native(m: Any, x: Any) -> Any:
    n = m.n
    y, *saved = torch.native_batch_norm(m.c(x), n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps)
    return y, saved


OF_BATCH = nn.BatchNorm2d(6, track_running_stats=False)
KEPT: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "before the convolution": (
        two(nn.BatchNorm2d(3), CONV),
        (3, 5, 7),
        "the node before is not a convolution, or is read",
    ),
    "behind a transposed one": (
        two(nn.ConvTranspose2d(3, 6, 3), NORM),
        (3, 5, 7),
        "the node before is not a convolution",
    ),
    "read elsewhere": (
        Fn(lambda m, x: (u := m.c(x)) + m.n(u), c=CONV, n=NORM),
        *((3, 5, 7), "the node before is not a"),
    ),
    "its own are read": (Fn(all_of_native, c=CONV, n=NORM), (3, 5, 7), "its statistics are read"),
    "the batch's statistics": (two(CONV, OF_BATCH), (3, 5, 7), "it uses statistics of the batch"),
    # Seven tokens of seven features: the norm is over the tokens.
    "tokens": (Fn(lambda m, x: m.n(m.l(x)), l=nn.Linear(5, 7), n=nn.BatchNorm1d(7)), (7, 5), "the node before is not"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_norm_is_kept(name: str) -> None:
    model, shape, why = KEPT[name]
    rewrites = same(model, *shape).rewrites
    assert not rewrites.folded
    assert [(what, reason.startswith(why)) for _, what, reason in rewrites.skipped] == [("batch norm", True)]


def test_layers_that_are_shared() -> None:
    """One convolution before two norms, and a pair that runs twice."""
    norms = {"a": nn.BatchNorm2d(6), "b": nn.BatchNorm2d(6), "n": nn.BatchNorm2d(6)}
    pair = nn.Conv2d(6, 6, 3, padding=1)
    model = Fn(lambda m, x: m.n(m.p(m.n(m.p(m.a(m.c(x)) * m.b(m.c(x)).relu())))), c=CONV, p=pair, **norms)
    assert sorted(same(model, 3, 5, 7).rewrites.folded) == ["a", "b", "n", "n"]


def test_names_that_become_equal() -> None:
    """`a.b.weight` and `a_b.weight` are one where dots become underscores."""
    a = nn.Sequential()
    a.b = nn.Conv2d(3, 3, 1)
    same(Fn(lambda m, x: m.a_b(m.a.b(x)), a=a, a_b=nn.Conv2d(3, 3, 1)), 3, 5, 7)


FACTORS: dict[str, tuple[Any, int]] = {
    "of a convolution": (lambda m, x: 0.1 * m.c(x), 1),
    "behind its norm": (lambda m, x: m.n(m.c(x)) * 0.1, 1),
    "twice": (lambda m, x: 3 * (m.c(x) * -0.1), 2),
    "of a gated map": (lambda m, x: ((u := m.c(x)) * u.mean((2, 3), keepdim=True).sigmoid()) * 0.1, 1),
    "of what is read elsewhere": (lambda m, x: (u := m.c(x)) + 0.1 * u, 0),
    "of an activation": (lambda m, x: m.c(x).relu() * 0.1, 0),
    "of two feature maps": (lambda m, x: (m.c(x) * m.c(x).relu()) * 0.1, 0),
    "that is a parameter": (lambda m, x: m.c(x) * m.n.eps * m.n.weight.mean(), 1),
}


@pytest.mark.parametrize("name", FACTORS)
def test_factors(name: str) -> None:
    function, count = FACTORS[name]
    assert same(Fn(function, c=CONV, n=NORM), 3, 5, 7).rewrites.factors == count
