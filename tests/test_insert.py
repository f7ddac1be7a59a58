"""Insertion keeps the function and the names, and every gate learns."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from senet import ECAConfig, NoSqueezeConfig, SEConfig, SharedConfig, create_model, insert_
from senet.config import UnitConfig
from senet.errors import ConfigError

CONFIGS = [
    SEConfig(),
    SEConfig(gate="tanh", bias=False),
    SEConfig(gate="hard_sigmoid", squeeze="max"),
    NoSqueezeConfig(),
    ECAConfig(),
    SharedConfig(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_outputs_stay_and_every_gate_learns(config: UnitConfig) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    names = set(model.state_dict())
    x = torch.randn(2, 3, 64, 64)
    before = copy.deepcopy(model).eval()(x)
    sites = insert_(model, config, "layer*.bn2")
    assert [s.name for s in sites] == [f"layer{i}.{j}.bn2" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert [s.channels for s in sites] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert torch.equal(model.eval()(x), before)
    assert names < set(model.state_dict())
    assert all(".se.unit." in name for name in set(model.state_dict()) - names)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
    for name, p in model.named_parameters():
        if ".se." in name:
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0 or "fc1.bias" in name, name
    y = model.eval()(x)
    assert not torch.equal(y, before)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)
    assert torch.equal(copy.deepcopy(model)(x), y)


def test_the_standard_place_of_our_own_network_is_behind_its_last_norm() -> None:
    plain = create_model("resnet20", seed=3)
    x = torch.randn(2, 3, 32, 32)
    before = plain.eval()(x)
    sites = insert_(plain, SEConfig(), lambda name, m: isinstance(m, nn.BatchNorm2d) and name.endswith(".norm"))
    # The stem's norm has that name too.
    assert len(sites) == 10
    assert torch.equal(plain(x), before)


@pytest.mark.parametrize(
    ("config", "where", "message"),
    [
        (SEConfig(), "layer*.bn9", r"where: no module is called 'layer\*.bn9'"),
        (SEConfig(), ["layer1.0.bn1", "nowhere"], r"where: no module is called 'nowhere'"),
        (SEConfig(), lambda name, m: False, r"where: no module matches"),
        (SEConfig(), "relu", r"where: 'relu' is a ReLU; a unit goes behind a convolution or a norm"),
        (SEConfig(gate="relu"), "bn1", r"gate: 'relu' cannot learn"),
        (SEConfig(stages=(2,)), "bn1", r"placement, stages: have no effect on insertion"),
        (UnitConfig(), "bn1", r"config: UnitConfig is abstract; legal values: SEConfig, "),
        (SharedConfig(groups=128), "layer*.bn2", r"groups: 128 does not divide the 64 channels"),
    ],
)
def test_what_cannot_be_inserted_is_refused_and_changes_nothing(
    config: UnitConfig, where: object, message: str
) -> None:
    model = torchvision.models.resnet18()
    names = set(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        insert_(model, config, where)  # type: ignore[arg-type]
    assert set(model.state_dict()) == names
    insert_(model, SEConfig(), "bn1")
    with pytest.raises(ConfigError, match=r"where: 'bn1' has a unit already"):
        insert_(model, SEConfig(), "bn1")


def test_a_unit_that_cannot_be_built_leaves_the_others_out_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 30, 1))
    with pytest.raises(ConfigError, match=r"groups: 8 does not divide the 30 channels"):
        insert_(net, SharedConfig(groups=8), "*[01]")
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert not any(module._forward_hooks for module in net.modules())
    assert [site.channels for site in insert_(net, SharedConfig(groups=2), "*[01]")] == [32, 30]


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8), nn.GroupNorm(2, 8, affine=False), nn.InstanceNorm2d(8)],
    ids=str,
)
def test_every_norm_takes_a_unit(norm: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), copy.deepcopy(norm)).double().eval()
    u = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = net(u)
    assert [site.channels for site in insert_(net, SEConfig(), "1")] == [8]
    assert torch.equal(net(u), before)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    # The only module of a network without parameters.
    alone = nn.Sequential(copy.deepcopy(norm))
    insert_(alone, SEConfig(), "0")
    assert alone(u.float().repeat(1, 3, 1, 1)[:, :8]).shape == (2, 8, 4, 4)


@pytest.mark.parametrize("other", [nn.Linear(8, 8), nn.LayerNorm(8), nn.Sequential(nn.Conv2d(8, 8, 1))], ids=str)
def test_what_is_no_norm_and_no_convolution(other: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"where: '0' is a \w+; a unit goes behind a convolution or a norm"):
        insert_(nn.Sequential(other), SEConfig(), "0")


def test_a_whole_network_is_no_site() -> None:
    with pytest.raises(ConfigError, match=r"where: '' is a Network; a unit goes behind"):
        insert_(create_model("resnet20"), SEConfig(), lambda name, m: not name)
