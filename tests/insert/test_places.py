"""Insertion finds the places: the paper's for known networks, behind norms and activations for any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

from senet import NoSqueezeConfig, SEConfig, create_model, describe
from senet.errors import ConfigError
from senet.insert import insert_, remove_
from senet.units.unit import Unit
from tests.insert.networks import (
    Activation,
    Depthwise,
    FunctionalNorm,
    HiddenNorm,
    Join,
    Mixed,
    Norms,
    Odd,
    Scaled,
)
from tests.models.small import FAMILIES, pixels, small


def fc(channels: int) -> int:
    """Weights of both layers of an SE unit, r = 16."""
    return 2 * channels * (channels // 16)


# Blocks and widths by the papers' tables.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, list[str], list[int]]] = {
    "resnet50": (
        tv.resnet50,
        "residual",
        [f"layer{i}.{j}.bn3" for i, depth in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(depth)],
        [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    ),
    "resnext50": (
        tv.resnext50_32x4d,
        "residual",
        [f"layer{i}.{j}.bn3" for i, depth in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(depth)],
        [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    ),
    "vgg16_bn": (
        tv.vgg16_bn,
        "conv",
        [f"features.{i}" for i in (2, 5, 9, 12, 16, 19, 22, 26, 29, 32, 36, 39, 42)],
        [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6,
    ),
    "mobilenet_v2": (
        tv.mobilenet_v2,
        "residual",
        [f"features.{i}.conv.3" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
        [24] + [32] * 2 + [64] * 3 + [96] * 2 + [160] * 2,
    ),
    "googlenet": (
        lambda: tv.googlenet(init_weights=False, aux_logits=False),
        "concat",
        [f"inception{i}" for i in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")],
        [256, 480, 512, 512, 512, 528, 832, 832, 1024],
    ),
    "densenet121": (
        tv.densenet121,
        "concat",
        [f"features.denseblock{i}" for i in (1, 2, 3, 4)],
        [256, 512, 1024, 1024],
    ),
    "convnext_tiny": (
        lambda: timm.create_model("convnext_tiny"),
        "residual",
        [f"stages.{i}.blocks.{j}.drop_path" for i, depth in enumerate((3, 3, 9, 3)) for j in range(depth)],
        [96] * 3 + [192] * 3 + [384] * 9 + [768] * 3,
    ),
    "regnetx_002": (
        lambda: timm.create_model("regnetx_002"),
        "residual",
        [f"s{i}.b{j + 1}.conv3.bn" for i, depth in ((1, 1), (2, 1), (3, 4), (4, 7)) for j in range(depth)],
        [24, 56] + [152] * 4 + [368] * 7,
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_others(network: str) -> None:
    make, where, names, channels = NETWORKS[network]
    with torch.device("meta"):
        model, x = make(), torch.empty(2, 3, 64, 64)
    keys = model.state_dict().keys()
    sites = insert_(model, SEConfig(bias=False), where, example=x, dry_run=True)
    assert model.state_dict().keys() == keys
    assert sites == insert_(model, SEConfig(bias=False), "auto", example=x)
    assert [site.name for site in sites] == names
    assert [site.channels for site in sites] == channels
    assert [site.params for site in sites] == [site.macs for site in sites] == [fc(c) for c in channels]
    assert len(model.state_dict()) == len(keys) + 2 * len(names)


@pytest.mark.parametrize("name", ["resnet50", "resnet20"])
def test_the_residual_place_of_our_own_networks_is_their_twins(name: str) -> None:
    plain, twin = create_model(name, device="meta"), create_model(f"se_{name}", device="meta")
    units = {n: m for n, m in twin.named_modules() if isinstance(m, Unit)}
    sites = insert_(plain, SEConfig())
    assert [s.name for s in sites] == [f"{n.rpartition('.')[0]}.norm" for n in units]
    assert [s.params for s in sites] == [sum(p.numel() for p in u.parameters()) for u in units.values()]
    cost = describe(twin)
    assert sum(s.macs for s in sites) == cost.macs - cost.macs_without_se


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plain_network_of_ours_takes_units(family: str) -> None:
    """Those whose blocks have a `se` that is None too."""
    net = small(FAMILIES[family])
    model, x = create_model(net, device="meta"), torch.empty(1, 3, pixels(net), pixels(net), device="meta")
    where = ["features.stage*.branch?.norm?"] if "shake" in family else "auto"
    if "shake" in family:
        with pytest.raises(ConfigError, match=r"nearest before the end: '\S+branch1.norm(\d)', '\S+branch2.norm\1'"):
            insert_(model, SEConfig(), example=x)
    names = model.state_dict().keys()
    sites = insert_(model, SEConfig(), where, example=x)
    plain = {name for name in model.state_dict() if "unit.fc1.weight" not in name}
    assert len(model.state_dict().keys() - plain) == len(sites) >= 3
    inside = "inserted_se" if family in ("vgg", "mobile", "inception", "inception_resnet") else "se"
    assert f"{sites[-1 if family != 'inception_resnet' else 0].name}.{inside}.unit.fc1.weight" in model.state_dict()
    remove_(model)
    assert model.state_dict().keys() == names


def test_a_unit_of_our_own_networks_runs_once() -> None:
    torch.manual_seed(0)
    net = small(FAMILIES["vgg"])
    model, x = create_model(net).eval(), torch.randn(1, 3, 32, 32)
    insert_(model, SEConfig(), "features.stage1.block1", example=x)
    block: Any = model.get_submodule("features.stage1.block1")
    unit = block.inserted_se
    nn.init.normal_(unit.unit.fc2.weight)
    with torch.no_grad():
        u = block(x)
        plain = F.relu(block.norm(block.conv(x)))
        assert torch.equal(u, unit(plain))
        assert not torch.equal(u, plain)


def test_costs_without_the_squeeze_grow_with_the_map() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU())
    (site,) = insert_(net, NoSqueezeConfig(bias=False), "conv", example=torch.zeros(4, 3, 7, 9), dry_run=True)
    assert (site.name, site.params, site.macs) == ("1", 2 * 32 * 2, 2 * 32 * 2 * 5 * 7)


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("residual", ["1.conv"]),
        ("concat", ["1.join", "2"]),
        ("auto", ["1.conv", "2"]),
        ("conv", ["0", "1.join.one", "2.one"]),
    ],
)
def test_words(where: str, names: list[str]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), Mixed(), Join())
    assert [site.name for site in insert_(net, SEConfig(), where, dry_run=True)] == names


@pytest.mark.parametrize(
    ("layers", "site"),
    [
        ([nn.Identity(), nn.Softplus(), nn.Sigmoid()], "2"),
        ([nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)], "2"),
        ([nn.InstanceNorm2d(16), nn.LeakyReLU()], "2"),
        ([nn.InstanceNorm2d(16, affine=True, track_running_stats=True), nn.ELU()], "2"),
        ([nn.GroupNorm(4, 16), nn.PReLU(16)], "2"),
        ([nn.GroupNorm(16, 16), nn.SELU()], "2"),
        ([Norms("layer norm"), nn.GELU()], "2"),
        ([Norms("rms over channels"), Activation("mish")], "2"),
        ([Norms("filter response"), nn.Conv2d(16, 16, 1)], "1"),
        ([Norms("by hand"), Activation("swish")], "2"),
        ([nn.BatchNorm2d(16), Activation("hard swish")], "2"),
        # A norm of the image behind the activation would undo the gate; batch norm does not.
        ([nn.ReLU(), nn.InstanceNorm2d(16), nn.MaxPool2d(2)], "2"),
        ([nn.GELU(), Norms("global response")], "2"),
        ([nn.ReLU(), nn.BatchNorm2d(16)], "1"),
        ([nn.MaxPool2d(3, 1, 1), nn.ReLU()], "0"),
        ([nn.Softmax(1)], "0"),
    ],
    ids=str,
)
@pytest.mark.parametrize("images", [1, 2])
def test_behind_norm_and_activation(layers: list[nn.Module], site: str, images: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), *layers).eval()
    sites = insert_(net, SEConfig(), "conv", example=torch.zeros(images, 3, 12, 12), dry_run=True)
    assert [s.name for s in sites] == [site]


def test_a_unit_is_never_before_a_norm_that_undoes_it() -> None:
    x = torch.zeros(2, 3, 12, 12)
    net = nn.Sequential(FunctionalNorm(), nn.Conv2d(16, 8, 1))
    assert [s.name for s in insert_(net, SEConfig(), "conv", example=x, dry_run=True)] == ["0"]
    with pytest.raises(ConfigError, match="where: the norm behind 'conv' is not a module, and would undo the gate"):
        insert_(HiddenNorm(), SEConfig(), "conv", example=x)


def test_where_a_depthwise_convolution_ends() -> None:
    sites = insert_(Depthwise(), SEConfig(), "conv", example=torch.zeros(1, 8, 9, 9), dry_run=True)
    # The paper's SE-MobileNet has its units behind the 1x1.
    assert [site.name for site in sites] == ["norm2", "last"]


@pytest.mark.parametrize(
    ("name", "count", "last"),
    [
        # The sum inside its GRN.
        ("convnextv2_atto", 12, "stages.3.blocks.1.mlp.fc2"),
        # Sums inside attention, which no module ends.
        ("efficientformerv2_s0", 20, "stages.3.blocks.3.ls2"),
        # Branches without convolutions.
        ("poolformer_s12", 24, "stages.3.blocks.1.layer_scale2"),
    ],
)
def test_sums_inside_an_operation_are_no_blocks(name: str, count: int, last: str) -> None:
    with torch.device("meta"):
        model, x = timm.create_model(name), torch.empty(1, 3, 224, 224)
    sites = insert_(model, SEConfig(), "auto", example=x, dry_run=True)
    assert (len(sites), sites[-1].name) == (count, last)


def test_a_norm_with_a_sum_by_hand_is_no_block() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), Norms("global response"), Scaled(nn.BatchNorm2d(16), 16))
    assert [s.name for s in insert_(net, SEConfig(), "residual", dry_run=True)] == ["2.last"]


@pytest.mark.parametrize(
    ("last", "site"),
    [(nn.BatchNorm2d(8), "1.last"), (nn.Identity(), "1.conv"), (nn.Sequential(nn.Conv2d(8, 8, 1)), "1.last.0")],
    ids=str,
)
def test_a_branch_that_is_scaled(last: nn.Module, site: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Scaled(last))
    assert [s.name for s in insert_(net, SEConfig())] == [site]


def test_a_container_keeps_its_unit_outside() -> None:
    model = Odd()
    # In the order in which they run.
    assert [s.name for s in insert_(model, SEConfig(), ["taken.0", "box", "box.0"])] == ["box.0", "box", "taken.0"]
    assert {name for name in model.state_dict() if "fc1.weight" in name} == {
        "box.0.se.unit.fc1.weight",
        "se_box.unit.fc1.weight",
        "taken.0.se.unit.fc1.weight",
    }
    assert len(model.box) == 2
    with pytest.raises(ConfigError, match="where: 'box', a Sequential, has a unit already"):
        insert_(model, SEConfig(), "box")
