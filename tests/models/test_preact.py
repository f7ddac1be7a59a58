"""Pre-activation networks: published integers, a forward pass written out by hand, and timm's blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet
from senet import ConfigError, SEConfig, create_model
from senet.blocks.preact import PreActBasic
from senet.config import Placement
from senet.models.net import Stage
from senet.models.preact import (
    PreActNet,
    preresnet110,
    preresnet164,
    se_preresnet110,
    se_preresnet164,
    se_wrn_16_8,
    wrn_16_8,
)
from tests.models.by_hand import draw, gate, norm, randomised

PLACES = get_args(Placement)
SE = SEConfig(reduction=2)

# Between them: blocks that keep the shape, change only the width, and change width and stride.
BASIC = PreActNet(
    stem_width=4,
    stages=(Stage(block="basic", depth=2, mid=4, out=4), Stage(block="basic", depth=2, mid=6, out=8, stride=2)),
    num_classes=3,
)
BOTTLENECK = PreActNet(
    stem_width=4,
    stages=(
        Stage(block="bottleneck", depth=2, mid=4, out=8),
        Stage(block="bottleneck", depth=2, mid=6, out=12, stride=2),
    ),
    num_classes=3,
)

# complexity.json: id, parameters with SE biases, without, multiply-adds; and of the plain twin.
GOLDEN = [
    ("resnet110_pre_shortA_c10", 1_742_200, 1_740_058, 252_899_776, 1_727_962, 252_887_680),
    ("resnet110_pre_shortA_c100", 1_748_050, 1_745_908, 252_905_536, 1_733_812, 252_893_440),
    ("resnet110_pre_shortB_c10", 1_744_760, 1_742_618, 253_161_920, 1_730_522, 253_149_824),
    ("resnet110_pre_shortB_c100", 1_750_610, 1_748_468, 253_167_680, 1_736_372, 253_155_584),
    ("resnet164_pre_c10", 1_905_362, 1_896_794, 244_694_528, 1_703_258, 244_500_992),
    ("resnet164_pre_c100", 1_928_492, 1_919_924, 244_717_568, 1_726_388, 244_524_032),
    ("wrn_16_8_c10", 11_049_290, 11_047_386, 1_548_231_680, 10_961_370, 1_548_145_664),
    ("wrn_16_8_c100", 11_095_460, 11_093_556, 1_548_277_760, 11_007_540, 1_548_191_744),
]
TWINS = {
    "resnet110": (preresnet110, se_preresnet110),
    "resnet164": (preresnet164, se_preresnet164),
    "wrn": (wrn_16_8, se_wrn_16_8),
}


@pytest.mark.parametrize(("name", "params", "no_bias", "macs", "plain_params", "plain_macs"), GOLDEN)
def test_golden_integers(name: str, params: int, no_bias: int, macs: int, plain_params: int, plain_macs: int) -> None:
    family, *words = name.split("_")
    plain, se = TWINS[family]
    assert plain == replace(se, se=None)
    fields: dict[str, Any] = {"num_classes": int(words[-1][1:])}
    if family == "resnet110":
        fields["shortcut"] = {"shortA": "zero_pad", "shortB": "projection"}[words[1]]
    got = senet.describe(replace(se, **fields))
    assert got.image_size == (32, 32)
    assert (got.params, got.params_se_bias_true, got.params_se_bias_false) == (params, params, no_bias)
    assert (got.macs, got.params_without_se, got.macs_without_se) == (macs, plain_params, plain_macs)


def test_defaults_and_rows() -> None:
    assert preresnet110.shortcut == "zero_pad"
    assert preresnet164.shortcut == wrn_16_8.shortcut == "projection"
    assert {net.num_classes for net, _ in TWINS.values()} == {10}
    assert se_preresnet164.layers("stage3") == "[1x1 32, 3x3 32, 1x1 128, fc 8-128] x 18 /2"
    assert wrn_16_8.layers("stage2") == "[3x3 128, 3x3 128] x 2"
    assert sum(row.depth for row in preresnet110.depths(9, 9, 9).stages) == 27
    with pytest.raises(ConfigError, match=r"depths: \(9, 9\) must name 3 stages"):
        preresnet110.depths(9, 9)


def by_hand(net: PreActNet, w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """architectures.md, section 11, and the appendix of arXiv:1603.05027, from a network's weights alone."""
    place = net.se.placement if net.se else None
    x = F.conv2d(x, w["features.stem.conv.weight"], padding=1)
    channels = net.stem_width
    for number, row in enumerate(net.stages, start=2):
        for i in range(row.depth):
            name, stride = f"features.stage{number}.block{i + 1}", row.stride if i == 0 else 1

            def at(here: str, map_: Tensor, name: str = name) -> Tensor:
                return gate(map_, w, f"{name}.se") if place == here else map_

            a = torch.relu(norm(x, w, f"{name}.norm1"))
            if stride == 1 and channels == row.out:
                # The first unit of all splits after its activation.
                shortcut = at("identity_before", a if (number, i) == (2, 0) else x)
            elif net.shortcut == "projection":
                shortcut = F.conv2d(at("identity_before", a), w[f"{name}.shortcut.weight"], stride=stride)
            else:
                shortcut = at("identity_before", a)[:, :, ::stride, ::stride]
                zeros = shortcut.new_zeros(len(x), row.out - channels, *shortcut.shape[2:])
                shortcut = torch.cat([shortcut, zeros], 1)
            u = at("pre", a)
            if row.block == "basic":
                u = F.conv2d(u, w[f"{name}.conv1.weight"], stride=stride, padding=1)
                u = F.conv2d(torch.relu(norm(u, w, f"{name}.norm2")), w[f"{name}.conv2.weight"], padding=1)
            else:
                u = F.conv2d(u, w[f"{name}.conv1.weight"], stride=stride)
                u = F.conv2d(torch.relu(norm(u, w, f"{name}.norm2")), w[f"{name}.conv2.weight"], padding=1)
                u = at("conv3x3", torch.relu(norm(u, w, f"{name}.norm3")))
                u = F.conv2d(u, w[f"{name}.conv3.weight"])
            x = at("post", at("standard", u) + at("identity", shortcut))
            channels = row.out
    x = torch.relu(norm(x, w, "features.last.norm")).mean((2, 3))
    return x @ w["classifier.weight"].T + w["classifier.bias"]


@pytest.mark.parametrize("shortcut", ["projection", "zero_pad"])
@pytest.mark.parametrize("place", [None, *PLACES])
@pytest.mark.parametrize("net", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_network_by_hand(net: PreActNet, place: Any, shortcut: Any) -> None:
    if place == "conv3x3" and net is BASIC:
        with pytest.raises(ConfigError, match=r"se\.placement: 'conv3x3' needs bottlenecks"):
            replace(net, se=replace(SE, placement=place))
        return
    net = replace(net, shortcut=shortcut, se=replace(SE, placement=place) if place else None)
    model = randomised(create_model(net))
    x = draw(2, 3, 7, 6)
    kept = x.clone()
    got, want = model(x), by_hand(net, model.state_dict(), x)
    assert want.std() > 1e-3
    assert torch.allclose(got, want, rtol=0, atol=1e-11)
    assert torch.equal(x, kept)
    moved = model.to(memory_format=torch.channels_last)
    assert torch.allclose(moved(x.contiguous(memory_format=torch.channels_last)), want, rtol=0, atol=1e-11)


class NormReLU(nn.BatchNorm2d):
    """Batch norm and ReLU in one, as timm's blocks take it."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


def test_wrn_equals_timms_blocks() -> None:
    """timm has no WRN for CIFAR, but its pre-activation basic block is one's."""
    from timm.layers.create_conv2d import create_conv2d
    from timm.models import resnetv2

    def block(before: int, width: int, stride: int) -> nn.Module:
        kinds: dict[str, Any] = {"norm_layer": NormReLU, "proj_layer": resnetv2.DownsampleConv}
        return resnetv2.PreActBasic(before, width, stride=stride, conv_layer=create_conv2d, **kinds)

    # As a sequence: 0 the stem, 1 to 6 the blocks, 7 the last norm, 10 the classifier.
    shapes = ((16, 128, 1), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1))
    blocks = [block(*shape) for shape in shapes]
    head = [NormReLU(512), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    theirs = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, *head).double().eval()
    places = {f"features.stage{s}.block{b}": str(2 * s + b - 4) for s in (2, 3, 4) for b in (1, 2)}
    places |= {"features.stem.conv": "0", "features.last.norm": "7", "classifier": "10"}
    ours = randomised(create_model(wrn_16_8))
    state: dict[str, Tensor] = {}
    for name, tensor in ours.state_dict().items():
        place = next(p for p in places if name.startswith(f"{p}."))
        state[places[place] + name.removeprefix(place).replace("shortcut", "downsample.conv")] = tensor
    theirs.load_state_dict(state)
    x = draw(2, 3, 16, 16)
    want = theirs(x)
    assert want.std() > 1e-3
    assert torch.allclose(ours(x), want, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("place", "channels"), [("pre", 8), ("identity_before", 8), ("conv3x3", 6), ("post", 12)])
def test_width_of_the_unit(place: Any, channels: int) -> None:
    model = create_model(replace(BOTTLENECK, se=replace(SE, placement=place)), device="meta")
    assert model.get_submodule("features.stage3.block1.se.fc1").in_features == channels


def test_stage_maps_are_the_sums() -> None:
    """With the announced sizes, and untouched by the ReLUs in place of what follows."""
    net = replace(BASIC, se=SE)
    maps, model = randomised(create_model(net, features_only=True)), randomised(create_model(net))
    x = draw(2, 3, 9, 16)
    first, second = maps(x)
    assert (first.shape, second.shape) == ((2, 4, 9, 16), (2, 8, 5, 8))
    assert (maps.channels, maps.strides) == ((4, 8), (1, 2))
    assert first.min() < 0
    alone = model.features.stem(x)
    alone = model.features.stage2(alone)
    assert torch.equal(first, alone)
    assert torch.equal(second, model.features.stage3(alone.clone()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_width": 0}, "stem_width: 0 is too small; expected: 1 or more"),
        ({"shortcut": "A"}, "shortcut: 'A' is not known; expected: projection, zero_pad"),
        ({"stages": (Stage(block="basic", depth=0, mid=4, out=4),)}, r"^stages\[0\].depth: 0 is too small"),
        ({"stages": (Stage(block="basic", depth=1, mid=4, out=4, groups=2),)}, r"^stages\[0\].groups: 2 has no effect"),
        (
            {"shortcut": "zero_pad", "stages": (BASIC.stages[1], BASIC.stages[0])},
            "shortcut: 'zero_pad' cannot go from 8 to 4 channels",
        ),
    ],
)
def test_wrong_values_raise(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BASIC, **fields)
    assert replace(BASIC, stages=BASIC.stages[::-1]).stage_outputs[-1].channels == 4


def test_a_basic_block_refuses_conv3x3() -> None:
    with pytest.raises(ConfigError, match=r"se\.placement: 'conv3x3' needs bottlenecks"):
        PreActBasic(4, mid=4, out=4, se=replace(SE, placement="conv3x3"))
