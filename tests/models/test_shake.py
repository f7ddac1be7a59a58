"""Shake-Shake: published integers, the rule of the mixing by hand, and a forward pass written out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import senet
from senet import ConfigError, SEConfig, create_model
from senet.blocks.shake import ShakeBasic, ShakeBottleneck, TwoPaths, mix
from senet.models.net import Stage
from senet.models.shake import (
    ShakeNet,
    se_shake_even_29_2x4x64d,
    se_shake_shake_26_2x96d,
    shake_even_29_2x4x64d,
    shake_shake_26_2x96d,
)
from tests.models.by_hand import draw, gate, norm, randomised

SE = SEConfig(reduction=2)
BASIC = ShakeNet(
    stem_width=4,
    stages=(Stage(block="basic", depth=2, mid=5, out=6), Stage(block="basic", depth=1, mid=8, out=8, stride=2)),
    num_classes=3,
)
BOTTLENECK = ShakeNet(
    stem_width=4,
    stages=(
        Stage(block="bottleneck", depth=2, mid=6, out=6, groups=2),
        Stage(block="bottleneck", depth=1, mid=8, out=10, groups=2, stride=2),
    ),
    num_classes=3,
    shake="even",
)
BOTH = pytest.mark.parametrize("net", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])


@pytest.mark.parametrize(
    ("net", "se_at", "params", "no_bias", "macs"),
    [  # complexity.json: ..._se_each and ..._se_merged
        (se_shake_shake_26_2x96d, "each_branch", 26_392_170, 26_386_458, 3_777_086_208),
        (se_shake_shake_26_2x96d, "mixed", 26_292_546, 26_289_690, 3_776_989_440),
        (se_shake_even_29_2x4x64d, "each_branch", 35_573_316, 35_561_892, 5_388_390_400),
        (se_shake_even_29_2x4x64d, "mixed", 35_051_508, 35_045_796, 5_387_874_304),
    ],
    ids=["26 each", "26 mixed", "29 each", "29 mixed"],
)
def test_golden_integers(net: ShakeNet, se_at: Any, params: int, no_bias: int, macs: int) -> None:
    got = senet.describe(replace(net, se_at=se_at))
    assert got.image_size == (32, 32)
    assert (got.params, got.params_se_bias_true, got.params_se_bias_false, got.macs) == (params, params, no_bias, macs)
    plain = (26_192_922, 3_776_892_672) if net.num_classes == 10 else (34_529_700, 5_387_358_208)
    assert (got.params_without_se, got.macs_without_se) == plain


def test_defaults_and_rows() -> None:
    assert shake_shake_26_2x96d == replace(se_shake_shake_26_2x96d, se=None)
    assert shake_even_29_2x4x64d == replace(se_shake_even_29_2x4x64d, se=None)
    assert (shake_shake_26_2x96d.shake, shake_shake_26_2x96d.num_classes) == ("shake", 10)
    assert (shake_even_29_2x4x64d.shake, shake_even_29_2x4x64d.num_classes) == ("even", 100)
    assert se_shake_shake_26_2x96d.layers("stage3") == "[2 (3x3 192, 3x3 192, fc 12-192)] x 4 /2"
    mixed = replace(se_shake_even_29_2x4x64d, se_at="mixed")
    assert mixed.layers("stage2") == "[2 (1x1 256, 3x3 256 g=4, 1x1 256), fc 16-256] x 3"
    with pytest.raises(ConfigError, match=r"depths: \(9, 9\) must name 3 stages"):
        mixed.depths(9, 9)


def test_the_rule_by_hand() -> None:
    """Of two images, forward weights 1/4 and 1, backward weights 1/2 and 1/8."""
    u1, u2, a, b, above = (
        torch.tensor(numbers).reshape(2, 1, 1, 1).requires_grad_()
        for numbers in ([8.0, 5.0], [4.0, -3.0], [0.25, 1.0], [0.5, 0.125], [10.0, 16.0])
    )
    y = mix(u1, u2, a.detach(), b.detach())
    assert y.flatten().tolist() == [0.25 * 8 + 0.75 * 4, 5]
    to_u1, to_u2 = torch.autograd.grad((y * above).sum(), (u1, u2))
    assert to_u1.flatten().tolist() == [10 * 0.5, 16 * 0.125]
    assert to_u2.flatten().tolist() == [10 * 0.5, 16 * 0.875]


@pytest.mark.parametrize("shake", ["shake", "even"])
@pytest.mark.parametrize("kind", [ShakeBasic, ShakeBottleneck])
def test_training_draws_a_weight_per_image(kind: type[ShakeBasic] | type[ShakeBottleneck], shake: str) -> None:
    block = randomised(kind(4, mid=4, out=4, shake=shake)).train()
    branches: list[Tensor] = []
    for branch in (block.branch1, block.branch2):
        branch.register_forward_hook(lambda _module, _inputs, u: branches.append(u))
    x = 5 + draw(5, 4, 3, 3).abs()
    torch.manual_seed(3)
    y = block(x)
    torch.manual_seed(3)
    a, b = torch.rand(2, 5, 1, 1, 1, dtype=torch.float64)
    u1, u2 = branches
    total = a * u1 + (1 - a) * u2 + x
    # So that the bottleneck's ReLU changes nothing.
    assert total.min() > 0
    assert torch.allclose(y, total, rtol=0, atol=1e-12)
    assert len(a.unique()) == 5
    to_u1, to_u2 = torch.autograd.grad(y.sum(), branches)
    b = b if shake == "shake" else torch.full_like(b, 0.5)
    assert torch.allclose(to_u1, b.expand_as(u1), rtol=0, atol=1e-15)
    assert torch.allclose(to_u2, 1 - b.expand_as(u2), rtol=0, atol=1e-15)


@BOTH
def test_evaluation_draws_nothing(net: ShakeNet) -> None:
    model = create_model(net)
    x = draw(2, 3, 6, 6).float()
    before = torch.get_rng_state()
    assert torch.equal(model.eval()(x), model(x))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(model.train()(x), model(x))
    assert not torch.equal(torch.get_rng_state(), before)


def test_the_weights_are_drawn_where_the_maps_are() -> None:
    """A weight of another device or type would not mix."""
    model = create_model(BASIC, device="meta").bfloat16().train()
    assert model(torch.empty(2, 3, 8, 8, device="meta", dtype=torch.bfloat16)).dtype == torch.bfloat16


def by_hand(net: ShakeNet, w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """architectures.md, section 11, in evaluation and from a network's weights alone."""
    is_basic = net.stages[0].block == "basic"
    x = norm(F.conv2d(x, w["features.stem.conv.weight"], padding=1), w, "features.stem.norm")
    x = x if is_basic else torch.relu(x)
    channels = net.stem_width
    for number, row in enumerate(net.stages, start=2):
        for i in range(row.depth):
            name, stride = f"features.stage{number}.block{i + 1}", row.stride if i == 0 else 1
            branches = []
            for branch in (f"{name}.branch1", f"{name}.branch2"):
                if is_basic:
                    u = F.conv2d(torch.relu(x), w[f"{branch}.conv1.weight"], stride=stride, padding=1)
                    u = torch.relu(norm(u, w, f"{branch}.norm1"))
                    u = norm(F.conv2d(u, w[f"{branch}.conv2.weight"], padding=1), w, f"{branch}.norm2")
                else:
                    u = torch.relu(norm(F.conv2d(x, w[f"{branch}.conv1.weight"]), w, f"{branch}.norm1"))
                    u = F.conv2d(u, w[f"{branch}.conv2.weight"], stride=stride, padding=1, groups=row.groups)
                    u = torch.relu(norm(u, w, f"{branch}.norm2"))
                    u = norm(F.conv2d(u, w[f"{branch}.conv3.weight"]), w, f"{branch}.norm3")
                branches.append(gate(u, w, f"{branch}.se") if net.se and net.se_at == "each_branch" else u)
            u = 0.5 * branches[0] + 0.5 * branches[1]
            u = gate(u, w, f"{name}.se") if net.se and net.se_at == "mixed" else u
            if stride == 1 and channels == row.out:
                shortcut = x
            elif is_basic:
                a, shifted = torch.relu(x), torch.zeros_like(x)
                shifted[:, :, 1:, 1:] = a[:, :, :-1, :-1]
                shortcut = torch.cat(
                    [
                        F.conv2d(a[:, :, ::stride, ::stride], w[f"{name}.shortcut.conv1.weight"]),
                        F.conv2d(shifted[:, :, ::stride, ::stride], w[f"{name}.shortcut.conv2.weight"]),
                    ],
                    1,
                )
                shortcut = norm(shortcut, w, f"{name}.shortcut.norm")
            else:
                shortcut = F.conv2d(x, w[f"{name}.shortcut.conv.weight"], stride=stride)
                shortcut = norm(shortcut, w, f"{name}.shortcut.norm")
            x = u + shortcut if is_basic else torch.relu(u + shortcut)
            channels = row.out
    return torch.relu(x).mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"]


@BOTH
@pytest.mark.parametrize("se_at", [None, "each_branch", "mixed"])
def test_network_by_hand(net: ShakeNet, se_at: Any) -> None:
    net = replace(net, se=SE, se_at=se_at) if se_at else net
    model = randomised(create_model(net))
    x = draw(2, 3, 7, 6)
    kept = x.clone()
    got, want = model(x), by_hand(net, model.state_dict(), x)
    assert want.std() > 1e-3
    assert torch.allclose(got, want, rtol=0, atol=1e-11)
    assert torch.equal(x, kept)
    moved = model.to(memory_format=torch.channels_last)
    assert torch.allclose(moved(x.contiguous(memory_format=torch.channels_last)), want, rtol=0, atol=1e-11)


def test_two_paths_by_hand() -> None:
    """The second path sees the pixel up and left of the first one's, and zeros beyond the edge."""
    layer = TwoPaths(1, 2, 2).eval()
    with torch.no_grad():
        layer.conv1.weight.fill_(1.0)
        layer.conv2.weight.fill_(10.0)
    x = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    want = torch.tensor([[[1.0, 3], [7, 9]], [[0, 0], [0, 50]]]) / (1 + 1e-5) ** 0.5
    assert torch.allclose(layer(x)[0], want)


@BOTH
def test_stage_maps(net: ShakeNet) -> None:
    """With the announced sizes, and untouched by the ReLUs of what follows."""
    maps, model = randomised(create_model(net, features_only=True)), randomised(create_model(net))
    x = draw(2, 3, 9, 16)
    first, second = maps(x)
    assert (first.shape[1:], second.shape[1:]) == ((6, 9, 16), (maps.channels[1], 5, 8))
    assert (maps.channels[0], maps.strides) == (6, (1, 2))
    alone = model.features.stage2(model.features.stem(x))
    assert torch.equal(first, alone)
    assert torch.equal(second, model.features.stage3(alone.clone()))
    assert (first.min() < 0) == (net is BASIC)


BOTTLENECK_ROW = Stage(block="bottleneck", depth=1, mid=8, out=8)
BASIC_ROW = Stage(block="basic", depth=1, mid=8, out=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_width": 0}, "stem_width: 0 is too small; expected: 1 or more"),
        ({"shake": "keep"}, "shake: 'keep' is not known; expected: shake, even"),
        ({"se_at": "both"}, "se_at: 'both' is not known; expected: each_branch, mixed"),
        ({"stages": (BASIC_ROW, BOTTLENECK_ROW)}, "stages: 'basic' and 'bottleneck' rows do not mix"),
        ({"stages": (replace(BASIC_ROW, depth=0),)}, r"^stages\[0\].depth: 0 is too small"),
        ({"stages": (replace(BASIC_ROW, groups=2),)}, r"^stages\[0\].groups: 2 has no effect in basic blocks"),
        (
            {"stem_width": 7, "stages": (BASIC_ROW, replace(BASIC_ROW, out=7))},
            r"^stages\[1\].out: 7 is odd; the shortcut joins two halves",
        ),
        ({"stages": (replace(BOTTLENECK_ROW, groups=3),)}, r"^stages\[0\].groups: 3 does not divide 8 channels"),
    ],
)
def test_wrong_values_raise(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BASIC, **fields)
    # Their legal neighbours.
    replace(BASIC, stages=(replace(BOTTLENECK_ROW, groups=4, out=7),))
    replace(BASIC, stem_width=7, stages=(replace(BASIC_ROW, out=7),))


def test_printed() -> None:
    assert repr(create_model(BOTTLENECK, device="meta")).count("shake='even'") == 3
