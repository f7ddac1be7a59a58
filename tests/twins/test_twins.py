"""Guard 4: a network and its SE twin are one class and one table but for one field, and start from the same weights."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from senet import (
    ECAConfig,
    Network,
    NoSqueezeConfig,
    SEConfig,
    SharedConfig,
    UnitConfig,
    create_model,
    get_net,
    list_models,
)
from senet.models.registry import plain_twin
from tests.models.small import FAMILIES, small

TWINS = [name for name in list_models() if get_net(name).se is not None]
UNITS = [SEConfig(), NoSqueezeConfig(), ECAConfig(), SharedConfig(), SEConfig(placement="pre", stages=(2, 3))]


def tensors(model: Network) -> dict[str, torch.Tensor]:
    return model.state_dict()


def assert_twins(plain: Network, twin: Network) -> None:
    assert type(plain) is type(twin) is Network
    ours, theirs = tensors(plain), tensors(twin)
    assert set(ours) < set(theirs)
    assert all(".se." in name for name in set(theirs) - set(ours))
    assert not any(".se." in name for name in ours)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_every_se_network_has_a_twin_and_every_twin_an_se_network() -> None:
    plain = [name for name in list_models() if name not in TWINS]
    assert sorted(plain_twin(name) or "" for name in TWINS) == sorted(plain)


@pytest.mark.parametrize("name", TWINS)
def test_the_tables_differ_in_one_field(name: str) -> None:
    twin, plain = get_net(name), get_net(plain_twin(name) or "")
    assert type(twin) is type(plain)
    assert [f.name for f in fields(twin) if getattr(twin, f.name) != getattr(plain, f.name)] == ["se"]
    assert plain.se is None
    assert twin.se == SEConfig()
    assert replace(twin, se=None) == plain


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_weights_are_equal_bit_for_bit(family: str, seed: int) -> None:
    plain = small(FAMILIES[family])
    assert_twins(create_model(plain, seed=seed), create_model(plain, seed=seed, se=SEConfig()))


@pytest.mark.parametrize("name", ["se_resnet50", "se_resnet18", "se_resnet110"])
def test_shared_weights_of_whole_networks(name: str) -> None:
    assert_twins(create_model(name.removeprefix("se_")), create_model(name))


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_twins_by_any_unit(unit: UnitConfig) -> None:
    assert_twins(create_model("resnet20"), create_model("resnet20", se=unit))


def test_seeds_differ_in_every_random_weight() -> None:
    a, b = create_model("se_resnet20", seed=0), create_model("se_resnet20", seed=1)
    for (name, one), two in zip(a.named_parameters(), b.parameters(), strict=True):
        is_random = one.dim() > 1
        assert torch.equal(one, two) != is_random, name


def test_a_longer_network_shares_the_blocks_of_a_shorter() -> None:
    short, long = tensors(create_model("resnet20")), tensors(create_model("resnet32"))
    assert set(short) < set(long)
    assert all(torch.equal(short[name], long[name]) for name in short)


def test_creating_leaves_the_global_random_state_alone_and_does_not_read_it() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = create_model("se_resnet20", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == before_numpy).all()
    torch.manual_seed(99)
    torch.rand(7)
    create_model("resnet20", seed=8)
    second = create_model("se_resnet20", seed=3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_another_classifier_and_input_keep_the_middle() -> None:
    a, b = tensors(create_model("se_resnet20")), tensors(create_model("se_resnet20", num_classes=7, in_channels=1))
    changed = {name for name in a if a[name].shape != b[name].shape}
    assert changed == {"features.stem.conv.weight", "classifier.weight", "classifier.bias"}
    assert all(torch.equal(a[name], b[name]) for name in set(a) - changed)


def test_logits_of_twins_agree_where_the_gate_is_one() -> None:
    """With gates of one the SE network computes its twin's function exactly."""
    plain, twin = create_model("resnet20").eval(), create_model("resnet20", se=SEConfig(gate="relu")).eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if ".se." in name:
                parameter.fill_(1.0 if name.endswith("fc2.bias") else 0.0)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(x), twin(x))
    assert not torch.equal(plain(x), create_model("se_resnet20").eval()(x))
