"""The squeeze-and-excitation unit: Eqs. 2-4 by an explicit loop, and timm's module with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from senet import ConfigError, SEConfig, SqueezeExcite
from senet import functional as sf
from senet.initialization import stream

GATES = {
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "relu": lambda x: max(0.0, x),
    "hard_sigmoid": lambda x: min(1.0, max(0.0, x / 6 + 0.5)),
}
SIZES = [(1, 16), (3, 16), (13, 16), (17, 4), (16, 16), (32, 1), (7, 7)]
"""Channels and reduction: one channel, fewer channels than r, primes, C = r, no reduction."""

MAPS = [(6,), (4, 3), (2, 3, 2), (1, 1)]


def unit_and_map(channels: int, config: SEConfig, space: tuple[int, ...] = (4, 3)) -> tuple[SqueezeExcite, Tensor]:
    """A unit with every parameter random, in float64, and a feature map for it."""
    unit = SqueezeExcite(channels, config).double()
    with torch.no_grad():
        for name, parameter in unit.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream(0, name)))
    return unit, torch.randn(2, channels, *space, dtype=torch.float64, generator=stream(0, "map"))


def by_hand(unit: SqueezeExcite, u: Tensor) -> tuple[Tensor, Tensor]:
    """The map and the gates, one number at a time."""
    config, channels, hidden = unit.config, u.shape[1], unit.fc1.weight.shape[0]
    w1, w2 = unit.fc1.weight.tolist(), unit.fc2.weight.tolist()
    b1 = unit.fc1.bias.tolist() if config.bias else [0.0] * hidden
    b2 = unit.fc2.bias.tolist() if config.bias else [0.0] * channels
    y, gates = u.clone(), torch.zeros(u.shape[:2], dtype=u.dtype)
    for n in range(u.shape[0]):
        z = []
        for c in range(channels):
            pixels = u[n, c].flatten().tolist()
            z.append(max(pixels) if config.squeeze == "max" else sum(pixels) / len(pixels))
        h = [max(0.0, sum(w1[j][c] * z[c] for c in range(channels)) + b1[j]) for j in range(hidden)]
        for c in range(channels):
            s = GATES[config.gate](sum(w2[c][j] * h[j] for j in range(hidden)) + b2[c])
            gates[n, c] = s
            y[n, c] = s * u[n, c]
    return y, gates


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "reduction"), SIZES)
def test_equations_2_to_4(channels: int, reduction: int, bias: bool) -> None:
    unit, u = unit_and_map(channels, SEConfig(reduction=reduction, bias=bias))
    y, s = unit(u, return_gate=True)
    want, gates = by_hand(unit, u)
    assert torch.allclose(y, want, rtol=0, atol=1e-12)
    assert torch.allclose(s, gates, rtol=0, atol=1e-12)
    assert torch.equal(unit(u), y)
    assert torch.equal(unit.gate(u), s)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("space", MAPS, ids=str)
def test_choices_of_tables_11_and_12(space: tuple[int, ...], gate: str, squeeze: str) -> None:
    unit, u = unit_and_map(6, SEConfig(reduction=3, gate=gate, squeeze=squeeze), space)
    y, s = unit(u, return_gate=True)
    want, gates = by_hand(unit, u)
    assert y.shape == u.shape
    assert torch.allclose(y, want, rtol=0, atol=1e-12)
    assert torch.allclose(s, gates, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [(256, 16, 16), (216, 16, 13), (1, 16, 1), (15, 16, 1), (16, 16, 1), (31, 16, 1), (32, 16, 2), (17, 1, 17)],
)
def test_hidden_width_is_never_rounded(channels: int, reduction: int, hidden: int) -> None:
    config = SEConfig(reduction=reduction)
    assert config.hidden(channels) == hidden
    unit = config.build(channels)
    assert unit.fc1.weight.shape == (hidden, channels)
    assert unit.fc2.weight.shape == (channels, hidden)


@pytest.mark.parametrize(
    ("bias", "keys"),
    [(True, ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]), (False, ["fc1.weight", "fc2.weight"])],
)
def test_parameter_names(bias: bool, keys: list[str]) -> None:
    assert list(SEConfig(bias=bias).build(32).state_dict()) == keys


@pytest.mark.parametrize(("channels", "hidden"), [(64, 4), (20, 5), (7, 1)])
def test_equals_timm(channels: int, hidden: int) -> None:
    from timm.layers import SEModule

    unit, u = unit_and_map(channels, SEConfig(reduction=channels // hidden))
    theirs = SEModule(channels, rd_channels=hidden).double()
    state = unit.state_dict()
    theirs.load_state_dict({k: v[:, :, None, None] if v.dim() == 2 else v for k, v in state.items()})
    assert torch.allclose(unit(u), theirs(u), rtol=0, atol=1e-13)


def test_equals_torchvision() -> None:
    from torchvision.ops import SqueezeExcitation

    unit, u = unit_and_map(24, SEConfig(reduction=4, gate="hard_sigmoid"))
    theirs = SqueezeExcitation(24, 6, scale_activation=torch.nn.Hardsigmoid).double()
    theirs.load_state_dict({k: v[:, :, None, None] if v.dim() == 2 else v for k, v in unit.state_dict().items()})
    assert torch.allclose(unit(u), theirs(u), rtol=0, atol=1e-13)


def test_defaults_are_the_released_networks() -> None:
    unit = SqueezeExcite(64)
    assert unit.config == SEConfig() == SEConfig(reduction=16, squeeze="avg", gate="sigmoid", bias=True)
    assert "reduction=16, squeeze='avg', gate='sigmoid'" in repr(unit)


@pytest.mark.parametrize(
    ("dtype", "value", "w1", "w2"),
    [
        # The sum of 4096 pixels would be infinite in float16, whose largest number is 65504 ...
        (torch.float16, 60_000.0, 2**-12, 2**-8),
        # ... and in bfloat16, with 8 bits, would stop growing at 256 pixels.
        (torch.bfloat16, 1e34, 1e-35, 0.5),
    ],
    ids=str,
)
def test_large_values_in_half_precision(dtype: torch.dtype, value: float, w1: float, w2: float) -> None:
    unit = SEConfig(bias=False).build(16).to(dtype)
    with torch.no_grad():
        unit.fc1.weight.fill_(w1)
        unit.fc2.weight.fill_(w2)
    y, s = unit(torch.full((1, 16, 64, 64), value, dtype=dtype), return_gate=True)
    want = 1 / (1 + math.exp(-16 * value * w1 * w2))
    assert 0.6 < want < 0.8
    assert torch.allclose(s.double(), torch.tensor(want, dtype=torch.float64), rtol=0.01)
    assert torch.allclose(y.double(), torch.tensor(want * value, dtype=torch.float64), rtol=0.01)


@pytest.mark.parametrize("value", [0, -4])
def test_no_reduction_below_one(value: int) -> None:
    assert SEConfig(reduction=1).hidden(8) == 8
    with pytest.raises(ConfigError, match=f"reduction: {value} is too small; expected: 1 or more"):
        SEConfig(reduction=value)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("gate", GATES)
def test_is_the_reference_bit_for_bit_by_way_of_its_modules(gate: str, squeeze: str, bias: bool) -> None:
    unit, u = unit_and_map(32, SEConfig(reduction=4, gate=gate, squeeze=squeeze, bias=bias))
    calls = []
    for layer in (unit.fc1, unit.fc2):
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    z = sf.squeeze(u, squeeze)
    want = sf.excitation(z, unit.fc1.weight, unit.fc1.bias, unit.fc2.weight, unit.fc2.bias, gate)
    assert torch.equal(unit.gate(u), want)
    assert calls == [unit.fc1, unit.fc2]
