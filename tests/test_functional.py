"""The reference equations against explicit loops in float64, and against other libraries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from senet import functional as sf

SHAPES = [(2, 5, 7), (2, 5, 4, 3), (1, 4, 2, 3, 2), (3, 1, 1, 1), (2, 17, 1, 1)]
"""1-D, 2-D and 3-D maps, one channel, prime counts, one pixel."""

BY_HAND = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(0.0, x),
    "hard_sigmoid": lambda x: min(1.0, max(0.0, x / 6 + 0.5)),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def linear_by_hand(x: list[float], weight: Tensor, bias: Tensor | None) -> list[float]:
    b = [0.0] * len(weight) if bias is None else bias.tolist()
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b[i] for i, row in enumerate(weight.tolist())]


def excitation_by_hand(
    z: list[float], w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, gate: str
) -> list[float]:
    hidden = [max(0.0, v) for v in linear_by_hand(z, w1, b1)]
    return [BY_HAND[gate](v) for v in linear_by_hand(hidden, w2, b2)]


def weights(channels: int, hidden: int, bias: bool) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    w1, w2 = draw(hidden, channels, seed=1), draw(channels, hidden, seed=2)
    return w1, draw(hidden, seed=3) if bias else None, w2, draw(channels, seed=4) if bias else None


@pytest.mark.parametrize("gate", BY_HAND)
def test_gates(gate: str) -> None:
    for x in (-7.0, -3.0, -0.3, 0.0, 0.4, 3.0, 8.0):
        assert sf.GATES[gate](torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(BY_HAND[gate](x), abs=1e-15)


def test_no_gate_is_untested() -> None:
    assert set(sf.GATES) == set(BY_HAND)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squeeze_is_mean_or_maximum(shape: tuple[int, ...]) -> None:
    u = draw(*shape)
    avg, top = sf.squeeze(u), sf.squeeze(u, "max")
    assert avg.shape == top.shape == shape[:2]
    for n in range(shape[0]):
        for c in range(shape[1]):
            values = u[n, c].flatten().tolist()
            assert avg[n, c].item() == pytest.approx(sum(values) / len(values), abs=1e-14)
            assert top[n, c].item() == max(values)


def test_squeeze_takes_its_name_from_a_known_place() -> None:
    u = draw(2, 3, 4, 4)
    assert torch.equal(sf.squeeze(u, "avg"), sf.squeeze(u))
    assert not torch.allclose(sf.squeeze(u, "max"), sf.squeeze(u))


@pytest.mark.parametrize("how", ["avg", "max"])
def test_a_vector_has_no_space(how: str) -> None:
    """`u.mean(())` would be the mean over everything, and so one gate for the whole batch."""
    z = draw(2, 3)
    assert torch.equal(sf.squeeze(z[..., None], how), z)
    with pytest.raises(ValueError, match=r"u: a feature map \(N, C, \*\) has .*; this one is \(2, 3\)"):
        sf.squeeze(z, how)
    parameters = weights(3, 2, True)
    assert sf.excitation_map(z[..., None], *parameters).shape == (2, 3, 1)
    with pytest.raises(ValueError, match=r"this one is \(2, 3\)"):
        sf.excitation_map(z, *parameters)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gate", BY_HAND)
@pytest.mark.parametrize(("channels", "hidden"), [(1, 1), (5, 2), (17, 1)])
def test_excitation(channels: int, hidden: int, gate: str, bias: bool) -> None:
    z, parameters = draw(3, channels), weights(channels, hidden, bias)
    got = sf.excitation(z, *parameters, gate)
    want = [excitation_by_hand(row, *parameters, gate) for row in z.tolist()]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scale(shape: tuple[int, ...]) -> None:
    u, s = draw(*shape), draw(*shape[:2], seed=1)
    got = sf.scale(u, s)
    for n in range(shape[0]):
        for c in range(shape[1]):
            assert torch.equal(got[n, c], u[n, c] * s[n, c].item())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_excitation_map_is_excitation_at_every_pixel(shape: tuple[int, ...], bias: bool) -> None:
    u, parameters = draw(*shape), weights(shape[1], 2, bias)
    got = sf.excitation_map(u, *parameters, "tanh")
    assert got.shape == u.shape
    pixels, gates = u.flatten(2), got.flatten(2)
    for n in range(shape[0]):
        for p in range(pixels.shape[2]):
            want = excitation_by_hand(pixels[n, :, p].tolist(), *parameters, "tanh")
            assert torch.allclose(gates[n, :, p], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_eca_excitation(kernel: int) -> None:
    z, weight = draw(2, 7), draw(1, 1, kernel, seed=1)
    got = sf.eca_excitation(z, weight)
    for n in range(2):
        for c in range(7):
            total = 0.0
            for k in range(kernel):
                at = c + k - kernel // 2
                total += weight[0, 0, k].item() * (z[n, at].item() if 0 <= at < 7 else 0.0)
            assert got[n, c].item() == pytest.approx(BY_HAND["sigmoid"](total), abs=1e-14)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_shared_excitation(groups: int) -> None:
    z, per = draw(2, 6), 6 // groups
    weight, bias, link = draw(per, seed=1), draw(per, seed=2), draw(1, seed=3)
    got = sf.shared_excitation(z, weight, bias, link, "tanh")
    for n in range(2):
        mean = sum(z[n].tolist()) / 6
        for c in range(6):
            k = c % per
            logit = weight[k].item() * z[n, c].item() + link.item() * mean + bias[k].item()
            assert got[n, c].item() == pytest.approx(math.tanh(logit), abs=1e-14)


@pytest.mark.parametrize("with_unit", [True, False])
def test_block_epilogue(with_unit: bool) -> None:
    """`relu(s_c * norm(x) + shortcut)` with batch norm's formula written out."""
    x, shortcut = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    norm = nn.BatchNorm2d(3).double().eval()
    with torch.no_grad():
        for i, t in enumerate((norm.weight, norm.bias, norm.running_mean)):
            t.copy_(draw(3, seed=10 + i))
        norm.running_var.copy_(draw(3, seed=13).abs() + 0.5)
    kept = shortcut.clone()
    got = sf.block_epilogue(x, norm, Halve() if with_unit else None, shortcut)

    def column(t: Tensor) -> Tensor:
        return t.detach().reshape(1, 3, 1, 1)

    u = (x - column(norm.running_mean)) / (column(norm.running_var) + 1e-5).sqrt() * column(norm.weight) + column(
        norm.bias
    )
    want = ((0.5 if with_unit else 1.0) * u + shortcut).clamp(min=0)
    assert torch.allclose(got, want, rtol=0, atol=1e-13)
    # The sum is rectified in place; what came in is not.
    assert torch.equal(shortcut, kept)


class Halve(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return 0.5 * u


def test_every_function_has_right_gradients() -> None:
    u = draw(2, 4, 3, 3).requires_grad_()
    w1, b1, w2, b2 = (t.requires_grad_() for t in weights(4, 2, True))
    z = draw(2, 4, seed=5).requires_grad_()
    cases = [
        (sf.squeeze, (u,)),
        (lambda v: sf.squeeze(v, "max"), (u,)),
        (lambda *a: sf.excitation(*a, "sigmoid"), (z, w1, b1, w2, b2)),
        (lambda *a: sf.excitation_map(*a, "tanh"), (u, w1, b1, w2, b2)),
        (sf.scale, (u, z)),
        (sf.eca_excitation, (z, draw(1, 1, 3, seed=6).requires_grad_())),
        (
            sf.shared_excitation,
            (z, *(draw(n, seed=7 + n).requires_grad_() for n in (2, 2, 1))),
        ),
    ]
    for function, inputs in cases:
        assert torch.autograd.gradcheck(function, inputs)
