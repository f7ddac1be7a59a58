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
import torch

import senet
from senet import ConfigError, ECAConfig, Net, SEConfig, UnitConfig, create_model, get_net, insert_
from senet.cli import main
from senet.paper.complexity import MACS_DIGITS, PARAMS_DIGITS, agrees, complexity

describe = cache(senet.describe)

GOLDEN = {entry["id"]: entry for entry in json.loads(Path(__file__).with_name("complexity.json").read_text())}
OPTIONS = {"A": "zero_pad", "B": "projection"}


def _lines() -> dict[str, str]:
    """What to give to `senet info` for each entry."""
    lines: dict[str, str] = {}
    for se in ("", "se_"):
        for depth in (50, 101, 152):
            lines[f"{se}resnet{depth}"] = f"{se}resnet{depth}"
        for depth in (50, 101):
            lines[f"{se}resnext{depth}_32x4d"] = f"{se}resnext{depth}_32x4d"
            lines[f"faster_rcnn_fpn_{se}resnet{depth}"] = f"fasterrcnn_{se}resnet{depth}_fpn"
        for name in ("vgg16_bn", "bn_inception", "inception_resnet_v2"):
            lines[f"{se}{name}"] = f"{se}{name}"
        lines[f"{se}mobilenet_1.0_224"] = f"{se}mobilenet"
        lines[f"{se}shufflenet_1x_g3"] = f"{se}shufflenet_g3"
        lines[f"{se}inception_resnet_v2_paperfig"] = f"{se}inception_resnet_v2 --layout figures"
        lines[f"places_{se}resnet152"] = f"{se}resnet152 --num-classes 365"
        # CIFAR, and the seed report's "ResNet-50" there, read as 6n + 2 with n = 8: see `test_the_seed_report`.
        for depth, sets in ((20, (10,)), (32, (10,)), (56, (10,)), (110, (10, 100))):
            for classes in sets:
                for option, shortcut in OPTIONS.items():
                    line = f"{se}resnet{depth} --shortcut {shortcut} --num-classes {classes}"
                    lines[f"{se}resnet{depth}_post_short{option}_c{classes}"] = line
        for classes in (10, 100):
            lines[f"{se}resnet164_pre_c{classes}"] = f"{se}preresnet164 --num-classes {classes}"
            lines[f"{se}wrn_16_8_c{classes}"] = f"{se}wrn_16_8 --num-classes {classes}"
            for option, shortcut in OPTIONS.items():
                line = f"{se}preresnet110 --shortcut {shortcut} --num-classes {classes}"
                lines[f"{se}resnet110_pre_short{option}_c{classes}"] = line
        for entry, se_at in (("each", "each_branch"), ("merged", "mixed")):
            field = f" --se-at {se_at}" if se else ""
            lines[f"{se}shake_shake_26_2x96d_se_{entry}_c10"] = f"{se}shake_shake_26_2x96d{field}"
            lines[f"{se}shake_even_29_2x4x64d_se_{entry}_c100"] = f"{se}shake_even_29_2x4x64d{field}"
    for depth in (50, 101, 152):
        lines[f"resnet{depth}_stride3x3"] = f"resnet{depth} --stride-on 3x3"
    lines |= {
        "se_inception_resnet_v2_also_reductions": "se_inception_resnet_v2 --se-at all",
        "se_mobilenet_1.0_224_after_dw": "se_mobilenet --se-at depthwise",
        "se_shufflenet_1x_g3_after_unit": "se_shufflenet_g3 --se-at unit",
        "senet154": "senet154",
        "senet154_320": "senet154 --image-size 320",
        "senet154_step0_resnext152_64x4d": "resnext152_64x4d",
        "senet154_step1_halved_first_1x1": "resnext152_64x4d --first-1x1 half",
        "senet154_step2_three_3x3_stem": "senet154_plain --projection 1x1",
        "senet154_step3_3x3_projections_no_se": "senet154_plain",
        "se_resnet50_nosqueeze": "resnet50 --se no_squeeze --no-bias",
    }
    # Section 6: SE layers without biases.
    for ratio in (2, 4, 8, 16, 32):
        lines[f"se_resnet50_r{ratio}"] = f"se_resnet50 --no-bias --reduction {ratio}"
    for stages, entry in (("2", "stage2"), ("3", "stage3"), ("4", "stage4"), ("5", "stage5")):
        lines[f"se_resnet50_{entry}"] = f"se_resnet50 --no-bias --se.stages {stages}"
    lines["se_resnet50_without_last_stage"] = "se_resnet50 --no-bias --se.stages 2,3,4"
    for entry, place in (
        ("pre", "pre"),
        ("post", "post"),
        ("identity", "identity"),
        ("identity_before_projection", "identity_before"),
        ("3x3", "conv3x3"),
    ):
        lines[f"se_resnet50_{entry}"] = f"se_resnet50 --no-bias --placement {place}"
    return lines


LINES = _lines()
SEED_REPORT = {f"{se}resnet50_6n+2_shortB_c10": f"{se}resnet20" for se in ("", "se_")}


def test_every_golden_entry_has_its_line() -> None:
    assert len(GOLDEN) == 102
    assert set(LINES) | set(SEED_REPORT) == set(GOLDEN)


@pytest.mark.parametrize("entry", LINES)
def test_info_gives_the_golden_integers(entry: str, capsys: pytest.CaptureFixture[str]) -> None:
    want = GOLDEN[entry]
    assert main(["info", *LINES[entry].split(), "--json"]) == 0
    got = json.loads(capsys.readouterr().out)
    assert got["image_size"] == want["input_size"][1:]
    for key in ("params", "macs"):
        assert got[key] == want[key], key
    for key in ("params_se_bias_true", "params_se_bias_false"):
        assert got[key] == want.get(key, want["params"]), key


@pytest.mark.parametrize("entry", SEED_REPORT)
def test_the_seed_report(entry: str) -> None:
    """Its "ResNet-50" on CIFAR, which is no name of ours: the table of ResNet-20 with other depths."""
    want, got = GOLDEN[entry], describe(replace(get_net(SEED_REPORT[entry]), shortcut="projection").depths(8, 8, 8))
    assert (got.params, got.macs) == (want["params"], want["macs"])
    assert got.params_se_bias_false == want.get("params_se_bias_false", want["params"])


def test_the_paper_s_figures() -> None:
    """Every printed figure, to its last digit or within half a percent, unless architectures.md says why not."""
    rows = list(complexity())
    assert [r.table for r in rows] == [2] * 16 + [3] * 4 + [10] * 6 + [13] * 5 + [15] * 2 + [16] * 3
    for row in rows:
        cost = describe(row.net)
        for ours, printed, unit, digits, note in (
            (cost.params, row.params, 1e6, PARAMS_DIGITS, row.params_note),
            (cost.macs, row.macs, row.unit, MACS_DIGITS[row.unit], row.macs_note),
        ):
            if printed is not None and not note:
                assert agrees(ours / unit, printed, digits), (row.table, row.row)
            assert printed is None or printed == round(printed, digits)
    excused = {(r.table, r.row) for r in rows if r.macs_note}
    assert excused == {
        (2, "Inception-ResNet-v2"),
        (2, "SE-Inception-ResNet-v2"),
        (3, "ShuffleNet"),
        (3, "SE-ShuffleNet"),
    }
    assert {(r.table, r.row) for r in rows if r.params_note} == {
        (3, "ShuffleNet"),
        (3, "SE-ShuffleNet"),
        (10, "r = 8"),
    }


def test_agreement_is_narrow() -> None:
    assert agrees(4.2320, 4.2, 1)
    assert agrees(3.8605, 3.87, 2)
    assert not agrees(3.8400, 3.87, 2)
    assert not agrees(1.8657, 1.8, 1)
    assert not agrees(138.07, 142, 0)
    # The paper prints 8.00.
    assert not agrees(7.6, 8.0, 2)


def test_tables_prints_both(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.models.describe.describe", describe)
    assert main(["tables", "complexity"]) == 0
    text = capsys.readouterr().out
    assert "Table 16, with and without the squeeze" in text
    assert "SE-ResNet-152" in text
    assert "11,288,993,792" in text
    assert "* no stacking of this network's blocks gives the paper's figure" in text
    assert main(["tables", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["macs"] for r in rows if r["row"] == "SE-MobileNet"] == [GOLDEN["se_mobilenet_1.0_224"]["macs"]]
    assert main(["tables", "accuracy"]) == 2
    assert "'accuracy' is not known; tables: complexity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fasterrcnn_resnet50_fpn --dropout 0.1", "model.dropout: 0.1 has no effect on a detector"),
        ("fasterrcnn_resnet5_fpn", "model: 'resnet5' is not known"),
        ("mobilenet --se-at depthwise", "--se-at: has no effect, the network has no attention unit"),
        ("se_mobilenet --se-at dw", "se_at: 'dw' is not known"),
        ("resnet20 --first-1x1 half", "first_1x1: 'half' needs bottlenecks"),
        ("se_vgg16_bn --placement pre", "se.placement: 'pre' has no meaning in this network; expected: standard"),
    ],
)
def test_info_refuses(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *line.split()]) == 2
    assert message in capsys.readouterr().err


def with_unit(unit: UnitConfig) -> Net:
    return replace(get_net("resnet50"), se=unit)


@pytest.mark.parametrize(
    ("name", "params"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672)],  # torchvision's documentation
)
def test_networks_beyond_the_paper(name: str, params: int) -> None:
    assert describe(get_net(name)).params == params


CIFAR = [f"{se}resnet{depth}" for depth in (20, 32, 44, 56, 110) for se in ("", "se_")]


@pytest.mark.parametrize("name", CIFAR)
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
    cost = describe(with_unit(SEConfig(bias=False)))
    assert cost.params / cost.params_without_se - 1 == pytest.approx(0.0984, abs=5e-5)
    assert cost.macs / cost.macs_without_se - 1 == pytest.approx(0.00065, abs=5e-6)
    fewer = describe(with_unit(SEConfig(stages=(2, 3, 4), bias=False)))
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


def test_a_network_with_inserted_units_is_not_its_table() -> None:
    model = create_model("resnet20")
    insert_(model, SEConfig(), example=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match=r"model: has 272,095 parameters and its table 269,722; describe it before"):
        senet.describe(model)


def test_a_unit_without_the_choice_of_biases() -> None:
    cost = describe(with_unit(ECAConfig()))
    assert cost.params == cost.params_se_bias_true == cost.params_se_bias_false
    # Kernel 5 at 256, 512 and 1024 channels, 7 at 2048.
    assert cost.params - cost.params_without_se == 5 * (3 + 4 + 6) + 7 * 3


def test_info_prints_the_table_of_stages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "se_resnet50"]) == 0
    text = capsys.readouterr().out
    assert "28,088,024" in text
    assert "3,860,488,192" in text
    assert "[1x1 64, 3x3 64, 1x1 256, fc 16-256] x 3" in text
