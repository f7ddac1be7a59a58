"""Inception-ResNet-v2: both layouts' integers; TF-slim's against timm, and the drawn one's stem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from senet import ConfigError, Net, SEConfig, create_model, describe
from senet.blocks.inception import Mixed, ResidualInception
from senet.config import from_dict, to_dict
from senet.initialization import draw_
from senet.models.inception_resnet import inception_resnet_v2, se_inception_resnet_v2
from tests.models.library_names import randomise_
from tests.models.test_every_model import assert_learns, units_of

figures = replace(inception_resnet_v2, layout="figures")
se_figures = replace(se_inception_resnet_v2, layout="figures")


def give_weights(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """`theirs`, made without memory, with the tensors of `ours`, one by one in their order."""
    names, tensors = list(theirs.state_dict()), list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(names, tensors, strict=True)), strict=True, assign=True)
    return theirs.eval()


@pytest.mark.parametrize(
    ("net", "params", "without_se_bias", "macs"),
    [
        (inception_resnet_v2, 55_843_464, 55_843_464, 13_155_794_016),
        (se_inception_resnet_v2, 64_387_444, 64_338_824, 13_164_289_376),
        (replace(se_inception_resnet_v2, se_at="all"), 65_092_718, 65_040_392, 13_164_990_944),
        (figures, 32_433_928, 32_433_928, 9_257_953_632),
        (se_figures, 37_083_598, 37_057_928, 9_262_577_632),
        # Units behind two reductions: C/16 = 72 and 134.
        (
            replace(se_figures, se_at="all"),
            37_083_598 + 2 * (1152 * 72 + 2144 * 134) + (1152 + 72 + 2144 + 134),
            37_057_928 + 2 * (1152 * 72 + 2144 * 134),
            9_262_577_632 + 2 * (1152 * 72 + 2144 * 134),
        ),
    ],
    ids=["slim", "se", "se_also_reductions", "paperfig", "se_paperfig", "se_paperfig_also_reductions"],
)
def test_golden_integers(net: Any, params: int, without_se_bias: int, macs: int) -> None:
    got = describe(net)
    assert got.image_size == (299, 299)
    assert (got.params, got.params_se_bias_false, got.macs) == (params, without_se_bias, macs)
    assert got.bn_statistics == {"slim": 60_544, "figures": 32_864}[net.layout]
    assert [row.height for row in got.rows if row.part.startswith("stage")] == [35, 17, 8]


def test_slim_is_timms() -> None:
    ours = create_model(inception_resnet_v2).double().eval()
    randomise_(ours)
    with torch.device("meta"):
        theirs = timm.create_model("inception_resnet_v2", drop_rate=0.0)
    x = torch.randn(1, 3, 80, 111, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        got, want = ours(x), give_weights(theirs, ours)(x)
    assert want.std() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_drawn_stem_is_that_of_inception_v4() -> None:
    with torch.device("meta"):
        ours = figures.build_features().get_submodule("stem")
        theirs: Any = timm.create_model("inception_v4").get_submodule("features")
    ours.to_empty(device="cpu")
    draw_(ours, 0)
    randomise_(ours.double().eval())
    x = torch.randn(2, 3, 43, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), give_weights(theirs[:6], ours)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("relu", [True, False])
def test_the_unit_is_on_the_branch_before_scale_and_sum(relu: bool) -> None:
    branches = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 6, 3, padding=1)
    mixed = Mixed(branches, 10)
    block = ResidualInception(32, mixed, 10, scale=0.17, relu=relu, se=SEConfig())
    x = torch.randn(2, 32, 5, 5)
    u = F.conv2d(torch.cat([branch(x) for branch in branches], 1), block.conv.weight, block.conv.bias)
    fc1, fc2 = block.get_submodule("se.fc1"), block.get_submodule("se.fc2")
    s = torch.sigmoid(fc2(torch.relu(fc1(u.mean((2, 3))))))
    want = x + 0.17 * s[:, :, None, None] * u
    torch.testing.assert_close(block(x), want.relu() if relu else want)


@pytest.mark.parametrize("net", [inception_resnet_v2, figures], ids=["slim", "figures"])
def test_depths_scales_and_the_last_block(net: Net) -> None:
    features = create_model(net, device="meta").features
    stages = [part for name, part in features.named_children() if name.startswith("stage")]
    ends = [[(m.scale, m.relu) for m in stage.children() if isinstance(m, ResidualInception)] for stage in stages]
    if net is figures:
        assert ends == [[(0.17, True)] * 5, [(0.10, True)] * 10, [(0.20, True)] * 5]
    else:
        assert ends == [[(0.17, True)] * 10, [(0.10, True)] * 20, [(0.20, True)] * 9 + [(1.0, False)]]
    assert {m.eps for m in features.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


@pytest.mark.parametrize(
    ("net", "units"),
    [(replace(se_inception_resnet_v2, se_at="all"), 43), (replace(se_figures, se_at="all"), 22), (figures, 0)],
    ids=["slim", "figures", "plain"],
)
def test_every_parameter_learns_and_every_unit_runs_once(net: Net, units: int) -> None:
    """At 107 pixels 2 x 2 are left in the last stage."""
    model = create_model(net, num_classes=5)
    assert len(assert_learns(model, 107, se_must_move=False)) == units


def test_where_units_are() -> None:
    def places(net: Net, **fields: Any) -> set[str]:
        return {name.removeprefix("features.") for name in units_of(create_model(net, device="meta", **fields))}

    residual, every = places(se_inception_resnet_v2), places(se_inception_resnet_v2, se_at="all")
    assert len(residual) == 40
    assert every - residual == {"stage2.mixed.se", "stage3.mixed.se", "stage4.mixed.se"}
    assert places(se_figures, se_at="all") - places(se_figures) == {"stage3.mixed.se", "stage4.mixed.se"}
    assert places(se_inception_resnet_v2, se=SEConfig(stages=(4,)), se_at="all") == {
        "stage4.mixed.se",
        *(f"stage4.block{i}.se" for i in range(1, 11)),
    }


def test_stage_maps_odd_sizes_and_channels_last() -> None:
    model = create_model(se_figures, in_channels=1, features_only=True).eval()
    assert (model.stages, model.channels, model.strides) == ((2, 3, 4), (384, 1152, 2144), (8, 16, 32))
    x = torch.randn(1, 1, 75, 107)
    with torch.no_grad():
        maps = model(x)
        # Unpadded: 75 pixels give 7, 3, 1 and 107 give 11, 5, 2.
        assert [tuple(m.shape) for m in maps] == [(1, 384, 7, 11), (1, 1152, 3, 5), (1, 2144, 1, 2)]
        model.to(memory_format=torch.channels_last)
        for got, want in zip(model(x.to(memory_format=torch.channels_last)), maps, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    assert create_model(se_inception_resnet_v2, device="meta", features_only=True).channels == (320, 1088, 2080)


def test_the_head_without_classifier() -> None:
    for net, features in ((inception_resnet_v2, 1536), (figures, 2144)):
        model = create_model(net, num_classes=0, device="meta").eval()
        assert model(torch.empty(2, 3, 75, 75, device="meta")).shape == (2, features)


def test_an_image_has_at_least_75_pixels() -> None:
    assert describe(inception_resnet_v2, 75).rows[-3].height == 1
    with pytest.raises(ConfigError, match="image_size: 74x75 is too small for this network"):
        describe(inception_resnet_v2, (74, 75))


def test_the_table_can_be_written_and_read_and_says_its_layers() -> None:
    net = replace(se_figures, se_at="all")
    assert from_dict(Net, to_dict(net)) == net
    assert net.layers("stage2") == "[inception 384, fc 24-384] x 5"
    assert net.layers("stage3") == "mixed 1152 /2, fc 72-1152, [inception 1152, fc 72-1152] x 10"
    assert inception_resnet_v2.layers("last") == "1x1 1536"
    assert "(max 3x3/2 | 3x3 96 /2), (1x1 64, 3x3 96 | 1x1 64, 1x7 64, 7x1 64, 3x3 96)" in figures.layers("stem")


@pytest.mark.parametrize(
    ("net", "fields", "message"),
    [
        (
            inception_resnet_v2,
            {"layout": "slims"},
            "layout: 'slims' is not known.*expected: slim, figures",
        ),
        (se_figures, {"se_at": "block"}, "se_at: 'block' is not known; expected: residual, all"),
        (
            se_figures,
            {"se": SEConfig(stages=(2,)), "se_at": "all"},
            "se_at: 'all' has no effect, no stage of se.stages",
        ),
        (se_figures, {"se": SEConfig(stages=(5,))}, "se.stages: 5 is not known; stages of this network: 2, 3, 4"),
        (se_figures, {"pool": "pad"}, "pool: no field 'pool'"),
    ],
)
def test_illegal_values(net: Net, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(net, device="meta", **fields)
