"""What cannot take a unit is refused in one line, and the network is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.models as tv
from torch import nn

from senet import SEConfig, SharedConfig, create_model
from senet.config import UnitConfig
from senet.errors import ConfigError
from senet.insert import insert_, remove_
from tests.insert.networks import Last, Odd, Twice


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("st*m?", r"where: no module is called 'st\*m\?'; expected: a module's name, residual, concat, conv, auto"),
        (["stem", "conv"], r"where: no module is called 'conv'"),
        (lambda name, m: False, r"where: no module matches"),
        (
            "relu",
            r"where: 'relu', a ReLU, is called 2 times; expected: a module that is called once and outputs",
        ),
        (["stem", "unused"], r"where: 'unused', a Conv2d, is called 0 times"),
        (["stem", "fc"], r"where: 'fc', a Linear, outputs \(1, 2\)"),
        (["stem", "tokens"], r"where: 'tokens', a Linear, outputs \(1, 16, 8\) with channels in dimension 2"),
        (lambda name, m: not name, r"where: '', a Odd, outputs \(1, 2\)"),
        (["stem", "steps"], r"where: 'steps' runs all its children as steps; name one of them"),
        (["stem", "taken"], r"where: '', a Odd, already has an attribute 'se_taken'"),
        (
            "residual",
            r"where: 'residual' finds nothing .*: 0, concat: 0, conv: 0; give names of modules with",
        ),
        (3, r"where: 3 is not a name; expected: residual, concat, conv, auto, names of modules, or a function"),
        (["stem", None], r"where: None is not a name"),
        (nn.Conv2d, r"where: <class .*Conv2d'> is not a name"),
    ],
)
def test_no_place_for_a_unit(where: object, message: str) -> None:
    model = Odd()
    names = set(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        insert_(model, SEConfig(), where, example=torch.zeros(1, 3, 4, 4))  # type: ignore[arg-type]
    assert set(model.state_dict()) == names
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("make", "where", "message"),
    [
        (tv.vgg16_bn, "residual", "residual: 0, concat: 0, conv: 13; give 'conv'"),
        (tv.resnet18, "concat", "residual: 8, concat: 0, conv: 17; give 'residual'"),
        (
            tv.swin_t,
            "auto",
            r"residual: 0 \(and 24 of tokens or channels-last, which .*\), concat: 0, conv: 1; give names",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.ReLU())),
            "1",
            "'1' is a container inside containers",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Last()),
            "residual",
            "no module that runs once and outputs .* ends the residual branch in '1'",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 1), Twice()),
            "residual",
            "no module that runs once and outputs .* ends the residual branch in '1'",
        ),
        (
            lambda: create_model("se_resnet20", device="meta"),
            "residual",
            "'features.stage2.block1.se', a SqueezeExcite, is a unit",
        ),
    ],
)
def test_networks_without_such_a_place(make: Callable[[], nn.Module], where: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=rf"where: .*{message}"):
        insert_(make(), SEConfig(), where, dry_run=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SEConfig(gate="relu"), r"gate: 'relu' has no gradient"),
        (SEConfig(stages=(2,)), r"placement, stages: have no effect on insertion"),
        (UnitConfig(), r"config: UnitConfig is abstract; expected: SEConfig, "),
        (SEConfig, r"config: <class .*SEConfig'>; expected: a UnitConfig, such as SEConfig\(\)"),
        (None, r"config: None; expected"),
        (SharedConfig(groups=8), r"groups: 8 does not divide the 30 channels"),
    ],
)
def test_a_unit_that_cannot_be_built_leaves_the_others_out_too(config: Any, message: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 30, 1))
    with pytest.raises(ConfigError, match=message):
        insert_(net, config, "?")
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert not any(module._forward_hooks for module in net.modules())
    assert [site.channels for site in insert_(net, SharedConfig(groups=2), "?")] == [32, 30]


@pytest.mark.parametrize("where", ["residual", "layer1.0.bn2", "conv"])
def test_a_second_unit_is_refused(where: str) -> None:
    model, x = tv.resnet18(), torch.zeros(1, 3, 32, 32)
    insert_(model, SEConfig(), "conv" if where == "conv" else "residual", example=x)
    names = set(model.state_dict())
    with pytest.raises(ConfigError, match=r"where: '(layer1.0.bn2|relu)', a \w+, has a unit already"):
        insert_(model, SEConfig(), where, example=x)
    assert set(model.state_dict()) == names


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_network_for_hooks() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()))
    with pytest.raises(ConfigError, match="model: '' is scripted; expected: a module without torch"):
        insert_(scripted, SEConfig(), "0")
    with pytest.raises(ConfigError, match="model: '0' is scripted"):
        insert_(nn.Sequential(scripted, nn.ReLU()), SEConfig(), "1")
    with pytest.raises(ConfigError, match=r"model: 3; expected: a torch\.nn\.Module"):
        insert_(3, SEConfig())  # type: ignore[arg-type]


def test_nothing_to_remove() -> None:
    with pytest.raises(ConfigError, match="model: has no unit from insert_"):
        remove_(create_model("se_resnet20", device="meta"))


def test_no_message_prints_a_tensor() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3))
    for wrong in (
        lambda: insert_(torch.zeros(9, 9), SEConfig()),  # type: ignore[arg-type]
        lambda: insert_(net, SEConfig(), torch.zeros(99, 9)),  # type: ignore[arg-type]
        lambda: insert_(net, torch.zeros(99, 9), "0"),  # type: ignore[arg-type]
        lambda: insert_(net, SEConfig(), "0", example=(torch.zeros(1, 3, 9, 9), torch.zeros(9, 9))),
        lambda: insert_(net, SEConfig(), "0", example={"x": torch.zeros(1, 3, 9, 9)}),
    ):
        with pytest.raises(ConfigError) as error:
            wrong()
        assert len(str(error.value).splitlines()) == 1
        assert "0." not in str(error.value)


def test_inference_mode_is_refused() -> None:
    net, mine = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), create_model("resnet20")
    with torch.inference_mode():
        assert len(insert_(net, SEConfig(), "conv", dry_run=True)) == 1
        with pytest.raises(
            ConfigError, match=r"insert_: in torch.inference_mode\(\), where new parameters never train"
        ):
            insert_(net, SEConfig(), "conv")
        with pytest.raises(ConfigError, match=r"reset_classifier: in torch\.inference_mode"):
            mine.reset_classifier(3)
        # All of it is made for inference only.
        made_here = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        insert_(made_here, SEConfig(), "conv")
    assert list(net.state_dict()) == ["0.weight", "0.bias"]
    assert mine.num_classes == 10
    with torch.no_grad():
        insert_(net, SEConfig(), "conv")
    net(torch.ones(1, 3, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
