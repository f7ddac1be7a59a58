"""Weights drawn by name: values depend on (seed, name) alone, and follow He et al."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from senet import SEConfig, create_model
from senet.initialization import draw_, number, stream


def test_numbers_are_the_same_on_every_machine() -> None:
    # Written down once; a change here would give every published seed other weights.
    assert number(0, "features.stem.conv.weight") == 1_109_037_092_904_911_496
    assert min(number(i) for i in range(200)) >= 0
    assert max(number(i) for i in range(200)) < 2**63


def test_keys_are_told_apart() -> None:
    keys = [(0, "a"), (1, "a"), (0, "b"), ("0a",), (0, "a", ""), ("a", 0), (0, "a", 1)]
    assert len({number(*key) for key in keys}) == len(keys)
    assert number(0, "a") == number("0", "a")


def test_streams_repeat_and_differ() -> None:
    first, again, other = (torch.rand(4, generator=stream(seed, "x")) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_weight_is_its_own_stream_times_he() -> None:
    model = create_model("se_resnet20", seed=7)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            normal = torch.randn(parameter.shape, generator=stream(7, name))
            std = 0.01 if name.startswith("classifier") else math.sqrt(2 / parameter[0].numel())
            assert torch.allclose(parameter, normal * std, rtol=1e-6, atol=0), name
        else:
            is_scale = name.endswith("weight")
            assert (parameter == (1 if is_scale else 0)).all(), name


def test_statistics_are_hes() -> None:
    """arXiv:1502.01852: mean 0, variance 2/fan_in; fan_in of a grouped convolution is that of one group."""
    model = create_model("resnext50_32x4d")
    for name, fan_in in (
        ("features.stage5.block2.conv1.weight", 2048),
        ("features.stage5.block2.conv2.weight", 9 * 1024 // 32),
        ("features.stage5.block2.conv3.weight", 1024),
    ):
        weight = model.get_parameter(name).detach().double()
        n = weight.numel()
        # Five standard errors: of a mean sigma/sqrt(n), of a deviation sigma/sqrt(2n).
        sigma = math.sqrt(2 / fan_in)
        assert abs(weight.mean().item()) < 5 * sigma / math.sqrt(n)
        assert abs(weight.std().item() - sigma) < 5 * sigma / math.sqrt(2 * n)
        # A Gaussian, not a uniform: 31.7 % lie beyond one sigma.
        assert (weight.abs() > sigma).double().mean().item() == pytest.approx(0.3173, abs=5 * 0.47 / math.sqrt(n))
    assert model.classifier.weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_the_order_of_modules_does_not_matter() -> None:
    first = nn.ModuleDict({"a": nn.Linear(4, 3), "b": nn.Conv2d(2, 3, 3)})
    other = nn.ModuleDict({"b": nn.Conv2d(2, 3, 3), "extra": nn.Linear(5, 5), "a": nn.Linear(4, 3)})
    draw_(first, 0)
    draw_(other, 0)
    for name in ("a.weight", "b.weight"):
        assert torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(first["a"].weight, draw_linear(4, 3, "b"))


def draw_linear(fan_in: int, out: int, prefix: str) -> torch.Tensor:
    layer = nn.Linear(fan_in, out)
    draw_(layer, 0, prefix)
    return layer.weight


def test_a_part_draws_what_it_draws_within_the_whole() -> None:
    whole, part = nn.ModuleDict({"a": nn.Linear(4, 3)}), nn.Linear(4, 3)
    draw_(whole, 2)
    draw_(part, 2, "a")
    assert torch.equal(whole["a"].weight, part.weight)


def test_half_precision_rounds_the_same_numbers() -> None:
    full, half = nn.Linear(4, 3), nn.Linear(4, 3).bfloat16()
    draw_(full, 0)
    draw_(half, 0)
    assert torch.equal(full.weight.bfloat16(), half.weight)


def test_buffers_are_reset() -> None:
    norm = nn.BatchNorm2d(3)
    norm(torch.randn(2, 3, 4, 4) + 5)
    draw_(norm, 0)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))
    assert norm.num_batches_tracked == 0


def test_a_layer_without_a_rule_is_an_error() -> None:
    draw_(nn.Sequential(SEConfig().build(16), nn.ReLU()), 0)
    with pytest.raises(TypeError, match="1: no rule to draw the weights of a PReLU"):
        draw_(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), 0)
