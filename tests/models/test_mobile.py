"""MobileNet, ShuffleNet and their SE twins: published integers, timm's MobileNet, and both written out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from senet import ConfigError, Net, SEConfig, create_model, describe
from senet.models.mobile import (
    MobileNet,
    MobileStage,
    ShuffleNet,
    ShuffleStage,
    mobilenet,
    se_mobilenet,
    se_shufflenet_g3,
    shufflenet_g3,
)
from tests.models.by_hand import gate, norm
from tests.models.library_names import randomise_
from tests.models.test_every_model import units_of

FORMS = {
    "pointwise": se_mobilenet,
    "depthwise": replace(se_mobilenet, se_at="depthwise"),
    "branch": se_shufflenet_g3,
    "unit": replace(se_shufflenet_g3, se_at="unit"),
}
"""The SE networks by the place of their units."""


def images(height: int, width: int | None = None) -> Tensor:
    return torch.randn(2, 3, height, width or height, generator=torch.Generator().manual_seed(1))


def short(net: Net) -> Net:
    """Two blocks per stage at most: the one with the stride and one without."""
    assert isinstance(net, (MobileNet, ShuffleNet))
    return replace(net, stages=tuple(replace(row, depth=min(row.depth, 2)) for row in net.stages), num_classes=5)


@pytest.mark.parametrize(
    ("net", "params", "params_se_bias_false", "macs"),
    [  # complexity.json
        (mobilenet, 4_231_976, 4_231_976, 568_740_352),
        (FORMS["pointwise"], 4_718_044, 4_711_720, 569_220_096),
        (FORMS["depthwise"], 4_586_046, 4_580_776, 569_089_152),
        (shufflenet_g3, 1_865_728, 1_865_728, 137_460_672),
        (FORMS["branch"], 2_484_533, 2_476_144, 138_071_088),
        (FORMS["unit"], 2_594_908, 2_585_728, 138_180_672),
    ],
)
def test_golden_integers(net: Net, params: int, params_se_bias_false: int, macs: int) -> None:
    got = describe(net)
    assert (got.params, got.params_se_bias_false, got.macs) == (params, params_se_bias_false, macs)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pointwise", "[dw 3x3, 1x1 128, fc 8-128] x 2 /2"),
        ("depthwise", "[dw 3x3, fc 4-64, 1x1 128] x 1 /2, [dw 3x3, fc 8-128, 1x1 128] x 1"),
        (
            "branch",
            "[1x1 120 g=3, dw 3x3, 1x1 240 g=3, fc 15-240, concat] x 1 /2, "
            "[1x1 120 g=3, dw 3x3, 1x1 480 g=3, fc 30-480] x 7",
        ),
        (
            "unit",
            "[1x1 120 g=3, dw 3x3, 1x1 240 g=3, concat, fc 30-480] x 1 /2, "
            "[1x1 120 g=3, dw 3x3, 1x1 480 g=3, fc 30-480] x 7",
        ),
    ],
)
def test_rows_read_as_a_table(name: str, words: str) -> None:
    assert FORMS[name].layers("stage3") == words
    assert FORMS[name].layers("stem") == ("3x3 24 /2, max 3x3/2" if name in ("branch", "unit") else "3x3 32 /2")


@pytest.mark.parametrize("size", [64, 97])
def test_mobilenet_equals_timms(size: int) -> None:
    import timm

    ours = create_model(mobilenet, num_classes=7).double().eval()
    randomise_(ours)
    # With the ReLU of the original; timm's own choice is ReLU6.
    theirs = timm.create_model("mobilenetv1_100", num_classes=7, act_layer=torch.nn.ReLU).double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = images(size).double()
    with torch.inference_mode():
        mine, other = ours(x), theirs(x)
    assert mine.std() > 0
    assert torch.allclose(mine, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())


class Hand:
    """Sections 0, 7 and 8 of the facts, written out over a state dict; `at` is the place of the units."""

    def __init__(self, w: dict[str, Tensor], at: str) -> None:
        self.w, self.at = w, at

    def conv(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        """Convolution and the batch norm of its number."""
        weight = self.w[f"{name}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        return norm(x, self.w, name.replace("conv3", "norm").replace("conv", "norm"))

    def unit(self, u: Tensor, block: str, place: str) -> Tensor:
        return gate(u, self.w, f"{block}.se") if place == self.at else u

    def mobile(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x, "features.stem.conv", 2))
        for stage, depth in {2: 1, 3: 2, 4: 2, 5: 6, 6: 2}.items():
            for i in range(depth):
                block = f"features.stage{stage}.block{i + 1}"
                stride = 2 if i == 0 and stage > 2 else 1
                x = torch.relu(self.conv(x, f"{block}.conv1", stride, groups=x.shape[1]))
                x = torch.relu(self.conv(self.unit(x, block, "depthwise"), f"{block}.conv2"))
                x = self.unit(x, block, "pointwise")
        return x

    def shuffle(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.conv(x, "features.stem.conv", 2)), 3, 2, 1)
        for stage, depth in {2: 4, 3: 8, 4: 4}.items():
            for i in range(depth):
                block = f"features.stage{stage}.block{i + 1}"
                u = torch.relu(self.conv(x, f"{block}.conv1", groups=1 if (stage, i) == (2, 0) else 3))
                n = u.shape[1] // 3
                u = u[:, [g * n + k for k in range(n) for g in range(3)]]
                u = self.conv(u, f"{block}.conv2", 2 if i == 0 else 1, groups=u.shape[1])
                u = self.unit(self.conv(u, f"{block}.conv3", groups=3), block, "branch")
                x = torch.cat([F.avg_pool2d(x, 3, 2, 1), u], 1) if i == 0 else x + u
                x = self.unit(torch.relu(x), block, "unit")
        return x


@pytest.mark.parametrize("place", [*FORMS, "none"])
def test_equals_the_networks_by_hand(place: str) -> None:
    model = create_model(FORMS.get(place, shufflenet_g3)).double().eval()
    randomise_(model)
    x, hand = images(64, 75).double(), Hand(model.state_dict(), place)
    with torch.inference_mode():
        mine = model.forward_features(x)
        other = hand.mobile(x) if place in ("pointwise", "depthwise") else hand.shuffle(x)
        assert mine.std() > 0
        assert torch.allclose(mine, other, rtol=1e-9, atol=1e-9 * other.abs().max().item())
        assert torch.allclose(model(x), model.classifier(other.mean((2, 3))), rtol=1e-9)


def test_fields() -> None:
    assert create_model(se_mobilenet, se_at="depthwise", device="meta").net == FORMS["depthwise"]
    for net, units in ((mobilenet, 2), (shufflenet_g3, 8)):
        assert len(units_of(create_model(net, se=SEConfig(stages=(3,)), device="meta"))) == units
    for net in (mobilenet, shufflenet_g3):
        grey = create_model(replace(short(net), stem_width=12), in_channels=1, num_classes=0)
        assert grey(images(40)[:, :1]).shape == (2, net.stage_outputs[-1].channels)
    # Table 1 of arXiv:1707.01083: widths 272, 544, 1088 with 4 groups, of the same cost.
    four = tuple(ShuffleStage(depth=d, out=c) for d, c in ((4, 272), (8, 544), (4, 1088)))
    assert describe(replace(shufflenet_g3, stages=four, groups=4)).macs == pytest.approx(137_460_672, rel=0.05)


@pytest.mark.parametrize(
    ("net", "fields", "message"),
    [
        (se_mobilenet, {"se_at": "branch"}, "se_at: 'branch' is not known; expected: pointwise, depthwise"),
        (se_mobilenet, {"stem_width": 0}, "^stem_width: 0 is too small"),
        (se_mobilenet, {"stages": (MobileStage(depth=1, out=8, stride=0),)}, r"^stages\[0\].stride: 0 is too small"),
        (
            se_mobilenet,
            {"se": SEConfig(stages=(1,))},
            "se.stages: 1 is not known; stages of this network: 2, 3, 4, 5, 6",
        ),
        (se_shufflenet_g3, {"se_at": "pointwise"}, "se_at: 'pointwise' is not known; expected: branch, unit"),
        (se_shufflenet_g3, {"groups": 0}, "^groups: 0 is too small"),
        (se_shufflenet_g3, {"groups": 8}, "^groups: 8 does not divide 60 channels of stage 2"),
        (se_shufflenet_g3, {"stem_width": 26}, "^groups: 3 does not divide 214 channels of stage 2"),
        (se_shufflenet_g3, {"stages": (ShuffleStage(depth=0, out=240),)}, r"^stages\[0\].depth: 0 is too small"),
        (
            se_shufflenet_g3,
            {"stages": (ShuffleStage(depth=1, out=241),)},
            r"^stages\[0\].out: 241 must be a multiple of 4",
        ),
        (
            se_shufflenet_g3,
            {"stages": (ShuffleStage(depth=1, out=24),)},
            r"^stages\[0\].out: 24 must .* above the 24 before",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_illegal_values_raise(net: Net, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(net, device="meta", **fields)
