"""The C passes against `passes` in float64: layouts, odd shapes, tasks of every kind, optional arguments, NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from senet import SEConfig
from senet import functional as sf
from senet.kernels import cc, cpu_passes, fuse, passes

# Channels: a lane, less and more than a row, more than a task's; positions: less than a row, some tasks.
SHAPES = [
    (3, 5, 7, 7),
    (2, 3, 1, 1),
    (1, 1, 13, 11),
    (2, 70, 9),
    (2, 3, 5, 3, 4),
    (2, 2051, 41),
    (2, 16, 97, 71),
    (1, 3, 190, 181),
]
VARIANTS: list[dict[str, bool]] = [
    {},
    {"unit": False},
    {"norm": False},
    {"extremum": True},
    {"shortcut": False},
    {"affine": False},
    {"norm": False, "extremum": True},
]
CASES = [
    (shape, last, VARIANTS[(i + last) % 7], bool((i + j) % 3))
    for i, shape in enumerate(SHAPES)
    for last in (False, True)
    for j in range(2)
]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch, nan_buffers: None) -> None:
    """The compiled passes, and no other moments than theirs."""
    if cc.compiler() is None:
        pytest.skip("no C compiler")
    assert cpu_passes.available()
    monkeypatch.setattr(passes, "moments", None)


def laid(x: Tensor, last: bool) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x.contiguous()


def doubled(*values: Any) -> Any:
    return [v.double() if isinstance(v, Tensor) else v for v in values]


def close(found: Tensor, wanted: Tensor, scale: float = 0) -> None:
    """Equal to within some roundings of numbers of this size, by default of the largest."""
    assert found.dtype == torch.float32
    scale = scale or float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=3e-6 * scale)


def same(found: Tensor | None, wanted: Tensor | None) -> None:
    assert found is wanted is None or torch.equal(found.double(), wanted)  # type: ignore[union-attr, arg-type]


MOMENTS: Any = passes.moments


@pytest.mark.parametrize(("shape", "last", "variant", "relu"), CASES, ids=str)
def test_passes(shape: tuple[int, ...], last: bool, variant: dict[str, bool], relu: bool) -> None:
    rng = torch.Generator().manual_seed(len(shape) + shape[1])
    norm, unit, shortcut, affine, by_maximum = (
        variant.get(name, name != "extremum") for name in ("norm", "unit", "shortcut", "affine", "extremum")
    )

    def drawn(*size: int, wanted: bool = True) -> Tensor | None:
        return torch.randn(size, generator=rng) if wanted else None

    x, g, y = (laid(torch.randn(shape, generator=rng), last) for _ in range(3))
    if by_maximum:
        # So that more than one element is the largest.
        x = (2 * x).round() / 2
    # What is added, and its gradient, may be in another layout.
    e = laid(torch.randn(shape, generator=rng), not last) if shortcut else None
    mu, a, r, b0, b1 = (drawn(shape[1], wanted=norm) for _ in range(5))
    beta, sign = drawn(shape[1], wanted=norm and affine), drawn(shape[1], wanted=by_maximum)
    s, dz = (drawn(*shape[:2], wanted=unit) for _ in range(2))

    mean, m2, extremum = cpu_passes.moments(x, sign)
    wanted = MOMENTS(x.double(), sign)
    close(mean, wanted[0], 1)
    close(m2, wanted[1], x[0, 0].numel())
    same(extremum, wanted[2])

    out = cpu_passes.apply(x, e, mu, a, beta, s, relu)
    close(out, passes.apply(*doubled(x, e, mu, a, beta, s), relu=relu))
    assert out.stride() == x.stride()

    for kept, keep in ((y, True), (None, False)):
        t, T0, T1, ties = cpu_passes.reduce(g, x, kept, mu, a, beta, s, extremum, relu=relu, keep=keep)
        given = doubled(g, x, kept, mu, a, beta, s, extremum)
        judge = passes.reduce(*given, relu=relu, keep=keep)
        same(t, judge[0])
        close(T0, judge[1], x[0, 0].numel() ** 0.5)
        close(T1, judge[2], x[0, 0].numel() ** 0.5)
        same(ties, judge[3])
        rest: Any = (mu, a, beta, r, s, dz, extremum, ties, b0, b1)
        close(
            cpu_passes.input_gradient(g, x, *rest, count=77, relu=relu and not keep),
            passes.input_gradient(*doubled(g, x, *rest), count=77, relu=relu and not keep),
        )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_what_is_between_the_passes(variant: dict[str, bool]) -> None:
    norm, unit, affine = (variant.get(name, True) for name in ("norm", "unit", "affine"))
    mean, m2, T0, T1, s, dz = torch.randn(6, 7, 45, generator=torch.Generator().manual_seed(1))
    mu, var, a, beta, gamma = torch.randn(5, 45, generator=torch.Generator().manual_seed(2)).square()
    z0 = mean if unit else None
    vectors = (mu, var, gamma, beta) if affine else (mu, var, None, None)
    for name, arguments in {
        "combine": (mean, m2, 19),
        "normalise": (z0, *vectors, 1e-3),
        "gate_gradient": (T0, T1, a if norm else None, beta if norm and affine else None),
        "sums": (T0, T1, s if unit else None, dz if unit else None, z0, mu),
    }.items():
        found, wanted = (getattr(m, name) for m in (cpu_passes, passes))
        found, wanted = found(*arguments), wanted(*doubled(*arguments))
        for mine, theirs in [(found, wanted)] if isinstance(found, Tensor) else zip(found, wanted, strict=True):
            assert mine is theirs is None or mine.shape == theirs.shape
            if theirs is not None:
                close(mine, theirs)


@pytest.mark.parametrize("last", [False, True])
def test_a_mean_far_from_zero_keeps_its_digits(last: bool) -> None:
    x = laid(torch.randn(2, 6, 64, 64, generator=torch.Generator().manual_seed(0)) + 1000, last)
    x[0, 0] = 1000
    # A first pixel unlike all others is the worst centre there is.
    x[1, 1, 0, 0] = -1000
    mean, m2, _ = cpu_passes.moments(x)
    wanted = MOMENTS(x.double())
    torch.testing.assert_close(mean.double(), wanted[0], rtol=1e-7, atol=0)
    torch.testing.assert_close(m2.double(), wanted[1], rtol=1e-5, atol=0)
    assert m2[0, 0] == 0


@pytest.mark.parametrize("last", [False, True])
def test_nan_goes_where_torch_lets_it(last: bool) -> None:
    x = laid(torch.arange(2 * 3 * 300.0).reshape(2, 3, 300), last)
    x[1, 2, 7] = torch.nan
    sign = torch.tensor([1.0, -1.0, -1.0])
    found: Any = cpu_passes.moments(x, sign)
    for mine, theirs in zip(found, MOMENTS(x, sign), strict=True):
        assert torch.equal(mine.isnan(), theirs.isnan())
    out = cpu_passes.apply(x, None, None, None, None, None, True)
    assert torch.equal(out.nan_to_num(-1), torch.relu(x).nan_to_num(-1))
    # The gradient of torch's ReLU: it is let through where y is NaN.
    leaf, g = x.clone().requires_grad_(), torch.ones_like(x)
    (wanted,) = torch.autograd.grad(torch.relu(leaf), leaf, g)
    assert wanted[1, 2, 7] == 1
    for y in (out, None):
        t = cpu_passes.reduce(g, x, y, None, None, None, None, None, relu=True, keep=True)[0]
        assert torch.equal(t, wanted)  # type: ignore[arg-type]
        t = passes.reduce(g, x, y, None, None, None, None, None, relu=True, keep=True)[0]
        assert torch.equal(t, wanted)  # type: ignore[arg-type]
    for p in (cpu_passes, passes):
        dx = p.input_gradient(g, x, *(None,) * 10, count=1, relu=True)
        assert torch.equal(dx.nan_to_num(1), wanted)


@pytest.mark.parametrize("last", [False, True])
def test_threads_change_nothing(last: bool) -> None:
    x = laid(torch.randn(3, 24, 60, 60), last)
    norm, unit, e = nn.BatchNorm2d(24), SEConfig(reduction=4).build(24), torch.randn_like(x)

    def epilogue() -> list[Tensor]:
        leaves = [x.detach().requires_grad_(), e.detach().requires_grad_(), *norm.parameters(), *unit.parameters()]
        y = fuse.block_epilogue(leaves[0], norm, unit, leaves[1], everywhere=True)
        return [y, *torch.autograd.grad(y, leaves, x)]

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            sums = cpu_passes.reduce(x, x, None, None, None, None, None, None, relu=True, keep=False)
            y = cpu_passes.apply(x, x, None, None, None, None, True)
            found.append([*cpu_passes.moments(x)[:2], *sums[1:3], y, *epilogue()])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_an_epilogue(squeeze: Any) -> None:
    norm, unit = nn.BatchNorm2d(20), SEConfig(reduction=4, squeeze=squeeze).build(20)
    x, e, g = (laid(torch.randn(4, 20, 19, 13), True).requires_grad_(i < 2) for i in range(3))
    leaves = [x, e, *norm.parameters(), *unit.parameters()]
    found = torch.autograd.grad(fuse.block_epilogue(x, norm, unit, e, everywhere=True), leaves, g)
    x, e = (m.detach().double().requires_grad_() for m in (x, e))
    leaves = [x, e, *norm.double().parameters(), *unit.double().parameters()]
    wanted = torch.autograd.grad(sf.block_epilogue(x, norm, unit, e), leaves, g.double())
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_other_maps_take_the_plain_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(passes, "moments", lambda *args: called.append(args))
    x = torch.zeros(2, 4, 6, 6)
    for other in (x.double(), x.bfloat16(), x[..., ::2], x[:0], x.to("meta")):
        cpu_passes.moments(other)
        assert called.pop()[0] is other
    monkeypatch.setattr(cpu_passes, "_c", lambda: None)
    cpu_passes.moments(x)
    assert called.pop()[0] is x
