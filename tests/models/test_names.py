"""Names: the registry, the aliases, the patterns, and the fields that `create_model` takes."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import senet.models
from senet import ConfigError, Net, SEConfig, create_model, from_dict, get_net, list_models, override, to_dict
from senet.config import field_types
from senet.models.net import ResidualNet, Stage, StageOutput, Stem
from senet.models.registry import FAMILIES, NetFields, canonical_name, nets


def test_the_registry() -> None:
    imagenet = [f"resnet{n}" for n in (18, 34, 50, 101, 152)] + [f"resnext{n}_32x4d" for n in (50, 101)]
    imagenet += ["resnext152_64x4d", "vgg16_bn", "bn_inception", "inception_resnet_v2", "mobilenet", "shufflenet_g3"]
    cifar = [f"resnet{n}" for n in (20, 32, 44, 56, 110)] + ["preresnet110", "preresnet164", "wrn_16_8"]
    cifar += ["shake_shake_26_2x96d", "shake_even_29_2x4x64d"]
    names = [*imagenet, *cifar, *(f"se_{n}" for n in (*imagenet, *cifar)), "senet154", "senet154_plain"]
    assert sorted(list_models()) == sorted(names)
    assert {n for n in list_models() if get_net(n).image_size == 32} == {*cifar, *(f"se_{n}" for n in cifar)}
    assert list(nets()) == list_models()


def test_every_file_of_networks_is_a_listed_family() -> None:
    folder = Path(senet.models.__path__[0])
    modules = {p.stem: import_module(f"senet.models.{p.stem}") for p in folder.glob("*.py") if p.stem != "__init__"}
    assert {n for n, m in modules.items() if any(isinstance(v, Net) for v in vars(m).values())} == set(FAMILIES)
    assert list_models() == [name for f in FAMILIES for name, v in vars(modules[f]).items() if isinstance(v, Net)]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("seresnet50", "se_resnet50"),
        ("se_resnet50", "se_resnet50"),
        ("SE-ResNet-50", "se_resnet50"),
        ("se resnet 50", "se_resnet50"),
        ("legacy_seresnet50", "se_resnet50"),
        ("legacy_seresnext101_32x4d", "se_resnext101_32x4d"),
        ("seresnext50_32x4d", "se_resnext50_32x4d"),
        ("SE-ResNeXt-50", "se_resnext50_32x4d"),
        ("SE-ResNeXt-101 32x4d", "se_resnext101_32x4d"),
        ("ResNeXt-50", "resnext50_32x4d"),
        ("resnext101", "resnext101_32x4d"),
        ("ResNet-110", "resnet110"),
        ("cifar_resnet20", "resnet20"),
        ("SENet-154", "senet154"),
        ("legacy_senet154", "senet154"),
        ("SE-VGG-16", "se_vgg16_bn"),
        ("SE-BN-Inception", "se_bn_inception"),
        ("SE-Inception-ResNet-v2", "se_inception_resnet_v2"),
        ("SE-MobileNet", "se_mobilenet"),
        ("mobilenetv1_100", "mobilenet"),
        ("ShuffleNet", "shufflenet_g3"),
        ("SE-WRN-16-8", "se_wrn_16_8"),
        ("SE-Shake-Shake", "se_shake_shake_26_2x96d"),
        *((name, name) for name in list_models()),
    ],
)
def test_aliases(alias: str, name: str) -> None:
    assert canonical_name(alias) == name
    assert get_net(alias) is nets()[name]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("resnett101", r"model: 'resnett101' is not known \(did you mean 'resnet101'\?\); all models: senet"),
        ("nosuch", r"model: 'nosuch' is not known; all models: senet models, in Python senet.list_models\(\)$"),
        ("net.py", "model: 'net.py' is a file; expected: net.py:FUNCTION"),
        ("", "model: '' is not known"),
        ("se_", "model: 'se_' is not known"),
        ("senet50", "model: 'senet50' is not known"),
    ],
)
def test_unknown_names(wrong: str, message: str) -> None:
    for function in (get_net, create_model):
        with pytest.raises(ConfigError, match=message):
            function(wrong)


@pytest.mark.parametrize("wrong", [5, None, SEConfig()], ids=str)
def test_what_is_no_name(wrong: Any) -> None:
    for function in (get_net, create_model):
        with pytest.raises(
            ConfigError, match=r"^model: .* is not a network's name, a string \(create_model also takes"
        ):
            function(wrong)


def test_patterns() -> None:
    assert list_models("se_resnext*") == ["se_resnext50_32x4d", "se_resnext101_32x4d", "se_resnext152_64x4d"]
    assert list_models("resnet11?") == ["resnet110"]
    assert list_models("nosuch") == []
    assert list_models("*") == list_models()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("in_chans", 1, r"in_chans: no field 'in_chans'.*; fields: se, num_classes, .* \(here: in_channels\)"),
        ("drop_rate", 0.1, r"drop_rate: no field 'drop_rate'.*\(here: dropout\)"),
        ("rd_ratio", 0.25, r"with reduction = 1 / rd_ratio"),
        ("se_ratio", 0.25, r"with reduction = 1 / se_ratio"),
        ("reduction", 8, r"reduction: no field .*\(here: se=SEConfig\(reduction=...\)\)"),
        ("num_class", 10, r"num_class: no field 'num_class' \(did you mean 'num_classes'\?\); fields:"),
        ("pretrained", True, r"pretrained: no field 'pretrained' .*; fields: se, .* \(here: weights='timm:seresnet50"),
    ],
)
def test_unknown_fields(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("se_resnet20", device="meta", **{field: value})


def test_a_table_in_place_of_a_name() -> None:
    net = get_net("se_resnet20").depths(1, 2, 1)
    model = create_model(net, num_classes=3)
    assert model.net == replace(net, num_classes=3)
    assert [len(stage) for stage in model.features[1:]] == [1, 2, 1]


def test_what_type_checkers_know_of_fields_is_what_there_is() -> None:
    fields = {name for net in nets().values() for name in field_types(type(net))}
    assert set(NetFields.__annotations__) == fields - {"stem", "stages"}
    assert "fields" in inspect.signature(create_model).parameters


@pytest.mark.parametrize("name", list_models())
def test_every_table_survives_a_round_trip(name: str) -> None:
    net = get_net(name)
    written = to_dict(net)
    assert written["family"] == net.kind
    assert from_dict(Net, written) == net
    assert hash(from_dict(Net, written)) == hash(net)
    with pytest.raises(FrozenInstanceError):
        net.num_classes = 5


def test_depths() -> None:
    net = get_net("resnet50")
    assert net.depths(3, 4, 23, 3) == get_net("resnet101")
    with pytest.raises(ConfigError, match=r"depths: \(3, 4\) must name 4 stages"):
        net.depths(3, 4)
    with pytest.raises(ConfigError, match="depth: 0 is too small"):
        net.depths(3, 4, 0, 3)


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet18", (2, 2, 2, 2)),
        ("resnet34", (3, 4, 6, 3)),
        ("resnet50", (3, 4, 6, 3)),
        ("resnet101", (3, 4, 23, 3)),
        ("resnet152", (3, 8, 36, 3)),
        ("resnext101_32x4d", (3, 4, 23, 3)),
        ("resnet20", (3, 3, 3)),
        ("resnet32", (5, 5, 5)),
        ("resnet44", (7, 7, 7)),
        ("resnet56", (9, 9, 9)),
        ("resnet110", (18, 18, 18)),
    ],
)
def test_blocks_of_each_network(name: str, depths: tuple[int, ...]) -> None:
    """arXiv:1512.03385, Table 1 and section 4.2; the name counts the layers."""
    for net in (get_net(name), get_net(f"se_{name}")):
        assert tuple(row.depth for row in net.stages) == depths
        per_block = 2 if net.stages[0].block == "basic" else 3
        assert f"{sum(depths) * per_block + 2}" in name


def test_stage_maps_of_a_table() -> None:
    assert get_net("resnet18").stage_outputs == tuple(
        StageOutput(stage=s, channels=c, stride=r) for s, c, r in ((2, 64, 4), (3, 128, 8), (4, 256, 16), (5, 512, 32))
    )
    assert get_net("resnet20").stage_numbers == (2, 3, 4)
    assert replace(get_net("resnet18"), pool="none").stage_outputs[0].stride == 2


def test_units_by_stage() -> None:
    net = override(get_net("se_resnet50"), "se.stages=[3,5]")
    assert [net.unit_in(s) is not None for s in (2, 3, 4, 5)] == [False, True, False, True]
    assert get_net("resnet50").unit_in(3) is None
    assert get_net("se_resnet50").unit_in(2) == SEConfig()


def test_a_network_of_ones_own() -> None:
    net = ResidualNet(
        stem=Stem(width=8, kernel=3, stride=2),
        pool="none",
        stages=(Stage(block="bottleneck", depth=2, mid=4, out=16, groups=2),),
        se=SEConfig(reduction=4),
        num_classes=3,
        image_size=16,
    )
    assert net.stage_outputs == (StageOutput(stage=2, channels=16, stride=2),)
    assert net.layers("stem") == "3x3 8 /2"
    assert net.layers("stage2") == "[1x1 4, 3x3 4 g=2, 1x1 16, fc 4-16] x 2"
    assert sum(p.numel() for p in create_model(net).parameters()) == sum(p.numel() for p in net.build().parameters())


def test_an_abstract_table_builds_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Net().build_features()
    with pytest.raises(ConfigError, match=r"^model: Net is abstract; expected: ResidualNet, .*ShakeNet"):
        create_model(Net())
