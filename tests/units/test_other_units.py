"""NoSqueeze, ECA and the shared unit: each against a loop, and ECA against timm's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from senet import ConfigError, ECAConfig, NoSqueezeConfig, SEConfig, SharedConfig
from senet import functional as sf
from senet.initialization import draw_, stream
from senet.units.eca import ECA
from senet.units.no_squeeze import NoSqueeze
from senet.units.shared import SharedExcite


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def randomised(unit: nn.Module) -> nn.Module:
    unit.double()
    with torch.no_grad():
        for name, parameter in unit.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream(0, name)))
    return unit


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=stream(0, "map"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("space", [(5,), (3, 4), (2, 2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize(("channels", "reduction"), [(1, 16), (7, 2), (5, 16)])
def test_no_squeeze_pixel_by_pixel(channels: int, reduction: int, space: tuple[int, ...], bias: bool) -> None:
    """At each pixel the SE unit of that pixel alone: Table 16's "two 1x1 convolutions"."""
    unit = randomised(NoSqueezeConfig(reduction=reduction, bias=bias).build(channels))
    w1, w2 = unit.fc1.weight.tolist(), unit.fc2.weight.tolist()
    b1 = unit.fc1.bias.tolist() if bias else [0.0] * len(w1)
    b2 = unit.fc2.bias.tolist() if bias else [0.0] * channels
    u = draw(2, channels, *space)
    y, s = unit(u, return_gate=True)
    assert s.shape == y.shape == u.shape
    pixels, out, gates = u.flatten(2), y.flatten(2), s.flatten(2)
    for n in range(2):
        for p in range(pixels.shape[2]):
            x = pixels[n, :, p].tolist()
            h = [max(0.0, sum(map(float.__mul__, row, x)) + b) for row, b in zip(w1, b1, strict=True)]
            for c in range(channels):
                gate = sigmoid(sum(map(float.__mul__, w2[c], h)) + b2[c])
                assert gates[n, c, p].item() == pytest.approx(gate, abs=1e-13)
                assert out[n, c, p].item() == pytest.approx(gate * x[c], abs=1e-13)


def test_weights_move_between_se_and_no_squeeze() -> None:
    se, no_squeeze = randomised(SEConfig().build(32)), NoSqueeze(32).double()
    no_squeeze.load_state_dict(se.state_dict())
    one_pixel = draw(2, 32, 1, 1)
    assert torch.allclose(se(one_pixel), no_squeeze(one_pixel), rtol=0, atol=1e-13)
    flat = draw(2, 32, 1, 1).expand(2, 32, 4, 4)
    assert torch.allclose(se(flat), no_squeeze(flat), rtol=0, atol=1e-13)
    assert not torch.allclose(se(draw(2, 32, 4, 4)), no_squeeze(draw(2, 32, 4, 4)))


@pytest.mark.parametrize(("channels", "width"), [(1, 1), (16, 3), (64, 3), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_eca_width_by_its_papers_rule(channels: int, width: int) -> None:
    """arXiv:1910.03151, Eq. 12 and the authors' code: `t = int(|log2(C)/2 + 1/2|)`, the next odd number."""
    assert ECAConfig().width(channels) == width
    assert ECAConfig().build(channels).conv.weight.shape == (1, 1, width)
    from timm.layers import EcaModule

    assert EcaModule(channels).conv.kernel_size == (max(3, width),)


@pytest.mark.parametrize("kernel", [0, 1, 3, 9])
def test_eca_equals_a_loop_and_timm(kernel: int) -> None:
    unit = randomised(ECAConfig(kernel=kernel).build(32))
    u = draw(2, 32, 3, 4)
    weight = unit.conv.weight.flatten().tolist()
    y, s = unit(u, return_gate=True)
    for n in range(2):
        z = [sum(u[n, c].flatten().tolist()) / 12 for c in range(32)]
        for c in range(32):
            places = [(c + k - len(weight) // 2, w) for k, w in enumerate(weight)]
            want = sigmoid(sum(w * z[at] for at, w in places if 0 <= at < 32))
            assert s[n, c].item() == pytest.approx(want, abs=1e-13)
    from timm.layers import EcaModule

    theirs = EcaModule(kernel_size=len(weight)).double()
    theirs.load_state_dict(unit.state_dict())
    assert torch.allclose(y, theirs(u), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", [2, 4, -1])
def test_eca_refuses_widths_without_a_middle(kernel: int) -> None:
    with pytest.raises(ConfigError, match=rf"kernel: {kernel} is not a width; expected: 0 \(Eq. 12\), 1, 3"):
        ECAConfig(kernel=kernel)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 3), (7, 7), (8, 1)])
def test_shared_equals_a_loop(channels: int, groups: int, squeeze: str) -> None:
    unit = randomised(SharedConfig(groups=groups, squeeze=squeeze).build(channels))
    per, u = channels // groups, draw(2, channels, 3, 2)
    y, s = unit(u, return_gate=True)
    for n in range(2):
        pixels = [u[n, c].flatten().tolist() for c in range(channels)]
        z = [max(p) if squeeze == "max" else sum(p) / 6 for p in pixels]
        for c in range(channels):
            k = c % per
            logit = unit.weight[k].item() * z[c] + unit.link.item() * sum(z) / channels + unit.bias[k].item()
            assert s[n, c].item() == pytest.approx(sigmoid(logit), abs=1e-13)
            assert torch.allclose(y[n, c], sigmoid(logit) * u[n, c], rtol=0, atol=1e-13)


def test_shared_has_two_numbers_per_channel_of_a_group_and_one_link() -> None:
    assert sum(p.numel() for p in SharedConfig(groups=8).build(64).parameters()) == 2 * 64 // 8 + 1


def test_shared_starts_from_constants_whatever_the_seed() -> None:
    unit = randomised(SharedExcite(16))
    draw_(unit, 3)
    assert (unit.weight == 1).all()
    assert (unit.bias == 0).all()
    assert (unit.link == 0).all()
    u = draw(2, 16, 3, 3)
    assert torch.allclose(unit.gate(u), torch.sigmoid(u.mean((2, 3))), rtol=0, atol=1e-15)


def test_shared_refuses_groups_that_do_not_divide() -> None:
    assert SharedConfig(groups=4).build(20).weight.shape == (5,)
    with pytest.raises(ConfigError, match="groups: 8 does not divide the 20 channels of a block"):
        SharedConfig(groups=8).build(20)
    assert SharedExcite(9, SharedConfig(groups=3)).weight.shape == (3,)
    with pytest.raises(ConfigError, match="groups: 3 does not divide the 10 channels of a block"):
        SharedExcite(10, SharedConfig(groups=3))
    with pytest.raises(ConfigError, match="groups: 0 is too small; expected: 1 or more"):
        SharedConfig(groups=0)


@pytest.mark.parametrize("gate", sf.GATES)
def test_each_unit_takes_each_gate(gate: str) -> None:
    u = draw(2, 8, 3, 3)
    for config in (NoSqueezeConfig(gate=gate, reduction=2), ECAConfig(gate=gate), SharedConfig(gate=gate)):
        unit = randomised(config.build(8))
        got = unit.gate(u)
        if isinstance(unit, NoSqueeze):
            logits = unit.fc2(torch.relu(unit.fc1(u.movedim(1, -1)))).movedim(-1, 1)
        elif isinstance(unit, ECA):
            logits = unit.conv(u.mean((2, 3)).unsqueeze(1)).squeeze(1)
        else:
            logits = unit.weight * u.mean((2, 3)).reshape(2, 8, -1) + unit.bias
            logits = (logits + unit.link * u.mean((1, 2, 3)).reshape(2, 1, 1)).reshape(2, 8)
        by_name = {
            "sigmoid": nn.Sigmoid(),
            "tanh": nn.Tanh(),
            "relu": nn.ReLU(),
            "hard_sigmoid": nn.Hardsigmoid(),
        }
        assert torch.allclose(got, by_name[gate](logits), rtol=0, atol=1e-13)


@pytest.mark.parametrize("gate", sf.GATES)
def test_eca_is_the_reference_bit_for_bit_by_way_of_its_module(gate: str) -> None:
    unit, u, calls = randomised(ECAConfig(gate=gate, kernel=3).build(8)), draw(2, 8, 3, 3), []
    unit.conv.register_forward_hook(lambda module, *_: calls.append(module))
    assert torch.equal(unit.gate(u), sf.eca_excitation(sf.squeeze(u), unit.conv.weight, gate))
    assert calls == [unit.conv]
