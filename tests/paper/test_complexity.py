"""Guard 7: parameters and multiply-adds as whole numbers, and the paper's rounded figures.

`complexity.json` was computed from the official prototxts and the papers' texts by another program, not by senet.
Multiply-adds count convolutions and fully connected layers, SE's included.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import senet
from senet import ConfigError, ECAConfig, Net, NoSqueezeConfig, SEConfig, UnitConfig, create_model, get_net, list_models
from senet.cli import main

describe = cache(senet.describe)

GOLDEN = {entry["id"]: entry for entry in json.loads(Path(__file__).with_name("complexity.json").read_text())}


def with_unit(unit: UnitConfig) -> Net:
    return replace(get_net("resnet50"), se=unit)


NETS: dict[str, Net] = {
    **{f"{se}resnet{n}": get_net(f"{se}resnet{n}") for n in (50, 101, 152) for se in ("", "se_")},
    **{f"resnet{n}_stride3x3": replace(get_net(f"resnet{n}"), stride_on="3x3") for n in (50, 101, 152)},
    **{f"{se}resnext{n}_32x4d": get_net(f"{se}resnext{n}_32x4d") for n in (50, 101) for se in ("", "se_")},
    # Section 6: SE layers without biases.
    **{f"se_resnet50_r{r}": with_unit(SEConfig(reduction=r, bias=False)) for r in (2, 4, 8, 16, 32)},
    **{f"se_resnet50_stage{s}": with_unit(SEConfig(stages=(s,), bias=False)) for s in (2, 3, 4, 5)},
    "se_resnet50_without_last_stage": with_unit(SEConfig(stages=(2, 3, 4), bias=False)),
    "se_resnet50_pre": with_unit(SEConfig(placement="pre", bias=False)),
    "se_resnet50_post": with_unit(SEConfig(placement="post", bias=False)),
    "se_resnet50_identity": with_unit(SEConfig(placement="identity", bias=False)),
    "se_resnet50_identity_before_projection": with_unit(SEConfig(placement="identity_before", bias=False)),
    "se_resnet50_3x3": with_unit(SEConfig(placement="conv3x3", bias=False)),
    "se_resnet50_nosqueeze": with_unit(NoSqueezeConfig(bias=False)),
    # The seed report's "ResNet-50" on CIFAR, read as 6n + 2 with n = 8.
    **{
        f"{se}resnet50_6n+2_shortB_c10": replace(get_net(f"{se}resnet20"), shortcut="projection").depths(8, 8, 8)
        for se in ("", "se_")
    },
    **{
        f"{se}resnet{depth}_post_short{option}_c{classes}": replace(
            get_net(f"{se}resnet{depth}"), shortcut=shortcut, num_classes=classes
        )
        for depth, sets in ((20, (10,)), (32, (10,)), (56, (10,)), (110, (10, 100)))
        for classes in sets
        for option, shortcut in (("A", "zero_pad"), ("B", "projection"))
        for se in ("", "se_")
    },
}


def test_every_golden_entry_has_its_network() -> None:
    assert set(NETS) == set(GOLDEN)


@pytest.mark.parametrize("name", NETS)
def test_golden_integers(name: str) -> None:
    want, got = GOLDEN[name], describe(NETS[name])
    channels, height, width = want["input_size"]
    assert (NETS[name].in_channels, *got.image_size) == (channels, height, width)
    assert got.macs == want["macs"]
    assert got.params_se_bias_true == want.get("params_se_bias_true", want["params"])
    assert got.params_se_bias_false == want.get("params_se_bias_false", want["params"])
    # An entry says with or without biases; the table of ours says which.
    assert got.params == (want["params"] if NETS[name].se is None else want[f"params_se_bias_{_bias(NETS[name])}"])
    assert got.params == want["params"]


def _bias(net: Net) -> str:
    return str(net.se.bias).lower()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "params"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672)],  # torchvision's documentation
)
def test_networks_beyond_the_paper(name: str, params: int) -> None:
    assert describe(get_net(name)).params == params


@pytest.mark.parametrize("name", [n for n in list_models() if get_net(n).image_size == 32])
def test_cifar_networks_by_hand(name: str) -> None:
    """arXiv:1512.03385, section 4.2, summed layer by layer."""
    net = get_net(name)
    depth = int(name.rpartition("resnet")[2])
    n, rest = divmod(depth - 2, 6)
    assert rest == 0
    convs = 27 * 16 + 9 * (2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    units = sum(n * (2 * c * (c // 16) + c + c // 16) for c in (16, 32, 64)) if net.se else 0
    assert describe(net).params == convs + norms + 640 + 10 + units
    hundred = describe(replace(net, num_classes=100))
    assert hundred.params - describe(net).params == 90 * 65


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # Table 2's GFLOPs
        ("resnet50", 3.86),
        ("se_resnet50", 3.87),
        ("resnet101", 7.58),
        ("se_resnet101", 7.60),
        ("resnet152", 11.30),
        ("se_resnet152", 11.32),
        ("resnext50_32x4d", 4.24),
        ("se_resnext50_32x4d", 4.25),
        ("resnext101_32x4d", 7.99),
        ("se_resnext101_32x4d", 8.00),
    ],
)
def test_table_2_within_half_a_percent(name: str, billions: float) -> None:
    # Those rows also count something that is neither convolution nor FC; the worst is SE-ResNeXt-50, -0.40 %.
    assert describe(get_net(name)).macs / 1e9 == pytest.approx(billions, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # Tables 13, 15 and 16
        ("resnet50", 3.86),
        ("se_resnet50_stage2", 3.86),
        ("se_resnet50_stage3", 3.86),
        ("se_resnet50_stage4", 3.86),
        ("se_resnet50_3x3", 3.86),
        ("se_resnet50_nosqueeze", 4.27),
    ],
)
def test_ablation_operations_to_the_printed_digit(name: str, billions: float) -> None:
    assert round(describe(NETS[name]).macs / 1e9, 2) == billions


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # Tables 10, 13, 15 and 16; Table 10's 30.7 for r = 8 is neither the exact 30.59 nor this rule's 30.6
        ("se_resnet50_r2", 45.7),
        ("se_resnet50_r4", 35.7),
        ("se_resnet50_r16", 28.1),
        ("se_resnet50_r32", 26.9),
        ("se_resnet50_stage2", 25.6),
        ("se_resnet50_stage3", 25.7),
        ("se_resnet50_stage4", 26.4),
        ("se_resnet50_3x3", 25.8),
        ("se_resnet50_nosqueeze", 28.1),
    ],
)
def test_ablation_parameters_to_the_printed_digit(name: str, millions: float) -> None:
    # The paper's column is its rounded 25.6 plus the units' weights.
    cost = describe(NETS[name])
    assert round(25.6 + (cost.params - cost.params_without_se) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("name", "square_sum"),
    [("se_resnet50", 40_239_104), ("se_resnet101", 75_890_688), ("se_resnet152", 105_250_816)],
)
def test_equation_5(name: str, square_sum: int) -> None:
    """Eq. 5: SE adds `2/r sum_s N_s C_s^2` parameters, without biases."""
    net = get_net(name)
    assert 2 * sum(row.depth * row.out**2 for row in net.stages) == square_sum
    cost = describe(net)
    assert cost.params_se_bias_false - cost.params_without_se == square_sum // 16


@pytest.mark.parametrize("name", ["se_resnet50", "resnext50_32x4d", "se_resnet20"])
def test_rows_add_up_and_modules_agree(name: str) -> None:
    net = get_net(name)
    cost, model = describe(net), create_model(name, device="meta")
    assert cost == describe(model)
    assert sum(r.params for r in cost.rows) == cost.params == sum(p.numel() for p in model.parameters())
    assert sum(r.macs for r in cost.rows) == cost.macs
    assert sum(r.se_params for r in cost.rows) == cost.params - cost.params_without_se
    assert sum(r.se_macs for r in cost.rows) == cost.macs - cost.macs_without_se
    assert cost.bn_statistics == sum(b.numel() for n, b in model.named_buffers() if "running" in n)
    assert cost.se_share_params == pytest.approx(1 - cost.params_without_se / cost.params)
    assert [r.part for r in cost.rows] == ["stem", *(f"stage{s}" for s in net.stage_numbers), "head"]


def test_section_4_shares() -> None:
    """Section 4: about 10 % more parameters and 0.26 % more operations (0.065 % by convolutions and FC alone)."""
    cost = describe(NETS["se_resnet50_r16"])
    assert cost.params / cost.params_without_se - 1 == pytest.approx(0.0984, abs=5e-5)
    assert cost.macs / cost.macs_without_se - 1 == pytest.approx(0.00065, abs=5e-6)
    fewer = describe(NETS["se_resnet50_without_last_stage"])
    assert fewer.params / fewer.params_without_se - 1 == pytest.approx(0.0369, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "part", "layers", "shape"),
    [  # Table 1
        ("resnet50", "stem", "7x7 64 /2, max 3x3/2", (64, 56, 56)),
        ("resnet50", "stage2", "[1x1 64, 3x3 64, 1x1 256] x 3", (256, 56, 56)),
        ("se_resnet50", "stage2", "[1x1 64, 3x3 64, 1x1 256, fc 16-256] x 3", (256, 56, 56)),
        ("se_resnet50", "stage5", "[1x1 512, 3x3 512, 1x1 2048, fc 128-2048] x 3 /2", (2048, 7, 7)),
        ("se_resnext50_32x4d", "stage3", "[1x1 256, 3x3 256 g=32, 1x1 512, fc 32-512] x 4 /2", (512, 28, 28)),
        ("se_resnet50", "head", "mean, fc 1000", (1000, 1, 1)),
    ],
)
def test_table_1(name: str, part: str, layers: str, shape: tuple[int, int, int]) -> None:
    (row,) = [r for r in describe(get_net(name)).rows if r.part == part]
    assert row.layers == layers
    assert (row.channels, row.height, row.width) == shape


def test_image_size_changes_operations_and_not_parameters() -> None:
    net = get_net("resnet50")
    small, wide = describe(net, 64), describe(net, (64, 128))
    assert small.image_size == (64, 64)
    assert small.params == wide.params == describe(net).params
    fc = 2048 * 1000
    assert wide.macs - fc == 2 * (small.macs - fc)


def test_an_image_too_small_is_a_config_error() -> None:
    assert describe(get_net("resnet50"), 32).macs > 0
    with pytest.raises(ConfigError, match="image_size: 0x32 is too small"):
        describe(get_net("resnet50"), (0, 32))


def test_a_unit_without_the_choice_of_biases() -> None:
    cost = describe(with_unit(ECAConfig()))
    assert cost.params == cost.params_se_bias_true == cost.params_se_bias_false
    # Kernel 5 at 256, 512 and 1024 channels, 7 at 2048.
    assert cost.params - cost.params_without_se == 5 * (3 + 4 + 6) + 7 * 3


@pytest.mark.parametrize(
    ("args", "entry"),
    [
        (["se_resnet50"], "se_resnet50"),
        (["SE-ResNet-50", "--se.reduction", "8", "--no-bias"], "se_resnet50_r8"),
        (["se_resnet110", "--num-classes", "100", "--shortcut", "projection"], "se_resnet110_post_shortB_c100"),
    ],
)
def test_info_prints_the_same_integers(args: list[str], entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *args, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for key in ("params", "macs", "params_se_bias_true", "params_se_bias_false"):
        assert printed[key] == GOLDEN[entry][key]


def test_info_prints_the_table_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "se_resnet50"]) == 0
    text = capsys.readouterr().out
    assert "28,088,024" in text
    assert "3,860,488,192" in text
    assert "[1x1 64, 3x3 64, 1x1 256, fc 16-256] x 3" in text
