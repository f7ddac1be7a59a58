"""Guard 5: every kind of network times every legal choice learns in all its parameters.

The grid of choices runs on copies with one block per stage; whole networks are in test_zoo.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F

from senet import (
    ConfigError,
    ECAConfig,
    Network,
    NoSqueezeConfig,
    SEConfig,
    SharedConfig,
    Unit,
    UnitConfig,
    create_model,
    get_net,
)
from senet.config import Placement, field_types
from senet.models.net import Stage, Stem
from senet.units.config import Gate, Squeeze
from tests.models.small import FAMILIES, pixels, small

PLACES, GATES, SQUEEZES = get_args(Placement), get_args(Gate), get_args(Squeeze)
RESIDUAL = ("basic", "bottleneck", "grouped", "cifar")


def units_of(model: Network) -> dict[str, Unit]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Unit)}


def step(model: Network, size: int) -> tuple[dict[str, int], float]:
    """One forward and backward pass in training mode: how often each unit ran, and the loss."""
    calls = dict.fromkeys(units_of(model), 0)

    def count(name: str) -> Any:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    for name, unit in units_of(model).items():
        unit.register_forward_hook(count(name))
    x = torch.randn(2, model.net.in_channels, size, size, generator=torch.Generator().manual_seed(2))
    logits = model.train()(x)
    assert logits.shape == (2, model.num_classes)
    loss = F.cross_entropy(logits, torch.tensor([0, 1]))
    loss.backward()
    return calls, loss.item()


def assert_learns(model: Network, size: int, *, se_must_move: bool = True) -> dict[str, int]:
    calls, loss = step(model, size)
    assert loss == loss
    assert loss > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A gate or a hidden layer of ReLUs may be dead at the start; elsewhere a zero means a cut wire.
        if se_must_move or ".se." not in name:
            assert parameter.grad.any(), name
    assert all(count == 1 for count in calls.values()), calls
    return calls


@pytest.mark.parametrize("unit", ["se", "no_squeeze", "eca", "shared"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_unit_in_every_family(family: str, unit: str) -> None:
    net = small(FAMILIES[family])
    model = create_model(net, se=UnitConfig.kinds[unit]())
    calls = assert_learns(model, pixels(net), se_must_move=False)
    assert len(calls) >= len(net.stage_numbers)


@pytest.mark.parametrize("field", ["none", "other"])
@pytest.mark.parametrize("name", ["mobilenet", "shufflenet_g3", "inception_resnet_v2", "shake_shake_26_2x96d"])
def test_every_other_place_of_a_family(name: str, field: str) -> None:
    net = small(get_net(name))
    default, other = get_args(field_types(type(net))["se_at"])
    assert net.se_at == default  # type: ignore[attr-defined]
    if field == "none":
        with pytest.raises(ConfigError, match=rf"se_at: '{other}' has no effect, the network has no attention unit"):
            create_model(net, se_at=other)
        return
    model = create_model(net, se=SEConfig(), se_at=other)
    assert_learns(model, pixels(net), se_must_move=False)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {*RESIDUAL, "senet154", "preact", "preact_bottleneck"}))
def test_only_residual_blocks_have_other_places(family: str) -> None:
    for place in PLACES[1:]:
        with pytest.raises(ConfigError, match=rf"se.placement: '{place}' has no meaning in this network; expected"):
            replace(FAMILIES[family], se=SEConfig(placement=place))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layouts_agree(family: str) -> None:
    """Every gradient, NCHW against channels-last, in float64."""
    net = small(FAMILIES[family])
    model = create_model(net, se=SEConfig()).double()
    x = torch.randn(2, 3, pixels(net), pixels(net), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    grads = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model.to(memory_format=layout).zero_grad()
        F.cross_entropy(model.train()(x.to(memory_format=layout)), torch.tensor([0, 1])).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-6, atol=1e-9)


def thin(family: str) -> Any:
    """A quarter of the channels, where that leaves the units more than one hidden channel."""
    net: Any = small(FAMILIES[family])
    if net.stages[0].out < 256:
        return net
    rows = tuple(replace(row, mid=row.mid // 4, out=row.out // 4) for row in net.stages)
    return replace(net, stem=replace(net.stem, width=net.stem.width // 4), stages=rows)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("unit", ["se", "no_squeeze", "eca", "shared"])
@pytest.mark.parametrize("family", [*RESIDUAL, "preact", "preact_bottleneck"])
def test_every_unit_at_every_place(family: str, unit: str, place: Any) -> None:
    net, config = thin(family), UnitConfig.kinds[unit](placement=place)
    if place == "conv3x3" and family in ("basic", "cifar", "preact"):
        with pytest.raises(ConfigError, match=r"se\.placement: 'conv3x3' needs bottlenecks"):
            replace(net, se=config)
        return
    model = create_model(net, se=config)
    # The report's link weight starts at zero and its gates have one bias per group: all move at once.
    calls = assert_learns(model, 32, se_must_move=family not in ("cifar", "preact", "preact_bottleneck"))
    assert len(calls) == len(net.stages)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("reduction", [2, 4])
def test_every_choice_of_tables_10_to_12(reduction: int, gate: Any, squeeze: Any) -> None:
    for bias in (True, False):
        config = SEConfig(reduction=reduction, gate=gate, squeeze=squeeze, bias=bias)
        assert_learns(create_model(small(FAMILIES["cifar"]), se=config), 16, se_must_move=False)


@pytest.mark.parametrize("reduction", [16, 10_000])
def test_a_reduction_beyond_the_channels(reduction: int) -> None:
    """One hidden channel is left. (With a gate that is zero at zero, tanh or ReLU, it can close a branch for good.)"""
    model = create_model(small(FAMILIES["cifar"]), se=SEConfig(reduction=reduction))
    assert units_of(model)["features.stage2.block1.se"].fc1.weight.shape == (1, 16)
    assert_learns(model, 16, se_must_move=False)


@pytest.mark.parametrize("stages", [(2,), (3,), (4,), (2, 4), (4, 2), (2, 3, 4)])
def test_stages_of_table_13(stages: tuple[int, ...]) -> None:
    model = create_model("resnet20", se=SEConfig(stages=stages))
    assert {int(name.split(".")[1].removeprefix("stage")) for name in units_of(model)} == set(stages)
    assert len(units_of(model)) == 3 * len(stages)
    assert sum(step(model, 16)[0].values()) == 3 * len(stages)


@pytest.mark.parametrize("shortcut", ["projection", "zero_pad"])
@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@pytest.mark.parametrize("pool", ["ceil", "pad", "none"])
@pytest.mark.parametrize("family", RESIDUAL)
def test_every_form_of_the_table(family: str, pool: Any, stride_on: Any, shortcut: Any) -> None:
    plain = thin(family)
    if stride_on == "3x3" and family in ("basic", "cifar"):
        with pytest.raises(ConfigError, match=r"stride_on: '3x3' needs bottlenecks"):
            replace(plain, stride_on=stride_on)
        return
    net = replace(plain, pool=pool, stride_on=stride_on, shortcut=shortcut, se=SEConfig())
    size = 32 if family != "cifar" else 16
    model = create_model(net)
    assert_learns(model, size, se_must_move=False)
    assert model.net.stage_outputs[-1].stride == net.stem.stride * (1 if pool == "none" else 2) * 2 ** sum(
        row.stride == 2 for row in net.stages
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"se": SEConfig(stages=(5,))}, "se.stages: 5 is not known; stages of this network: 2, 3, 4"),
        ({"se": SEConfig(stages=(1, 2))}, "se.stages: 1 is not known; stages of this network: 2, 3, 4"),
        ({"se": SEConfig(placement="conv3x3")}, "se.placement: 'conv3x3' needs bottlenecks"),
        ({"se": SharedConfig(groups=5)}, "groups: 5 does not divide the 16 channels of a block"),
        ({"se": "se"}, "se: 'se' is not a UnitConfig"),
        ({"se": SEConfig}, "se: .* is not a UnitConfig"),
        (
            {"se": UnitConfig()},
            "se: UnitConfig is abstract; expected: SEConfig, NoSqueezeConfig, ECAConfig, Shared",
        ),
        ({"num_classes": -1}, "num_classes: -1 is too small; expected: 0 or more"),
        ({"num_classes": 10.0}, "num_classes: 10.0 is not a whole number"),
        ({"num_classes": True}, "num_classes: True is not a whole number"),
        ({"in_channels": 0}, "in_channels: 0 is too small; expected: 1 or more"),
        ({"image_size": 0}, "image_size: 0 is too small"),
        ({"dropout": 1.0}, "dropout: 1.0 is not a probability below 1"),
        ({"dropout": -0.1}, "dropout: -0.1 is too small; expected: 0 or more"),
        ({"dropout": float("nan")}, "dropout: nan is not a finite number"),
        ({"pool": "max"}, "pool: 'max' is not known; expected: ceil, pad, none"),
        ({"stride_on": "2x2"}, "stride_on: '2x2' is not known.*; expected: 1x1, 3x3"),
        ({"shortcut": "A"}, "shortcut: 'A' is not known; expected: projection, zero_pad"),
        ({"stride_on": "3x3"}, "stride_on: '3x3' needs bottlenecks; a basic block has no 1x1"),
        ({"first_1x1": "half"}, "first_1x1: 'half' needs bottlenecks; a basic block has no 1x1"),
        ({"projection": "3x3"}, "projection: '3x3' has no effect with shortcut='zero_pad'"),
        ({"stages": ()}, r"stages: \(\) must have at least one row"),
        ({"stem": Stem(width=0, kernel=3, stride=1)}, "^stem.width: 0 is too small; expected: 1 or more"),
        ({"stem": Stem(width=16, kernel=3, stride=0)}, "^stem.stride: 0 is too small"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_illegal_values_raise_at_construction(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("resnet20", **fields)


def test_their_legal_neighbours() -> None:
    fields = {"num_classes": 0, "in_channels": 1, "image_size": 1, "dropout": 0.99, "pool": "pad"}
    for name, value in fields.items():
        assert getattr(create_model("resnet20", device="meta", **{name: value}).net, name) == value
    for unit in (SEConfig(stages=(4,)), SharedConfig(groups=16), ECAConfig(kernel=3), NoSqueezeConfig(reduction=99)):
        assert create_model("resnet20", device="meta", se=unit).net.se == unit


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"depth": 0}, r"^stages\[1\].depth: 0 is too small; expected: 1 or more"),
        ({"mid": 0}, r"^stages\[1\].mid: 0 is too small"),
        ({"out": -1}, r"^stages\[1\].out: -1 is too small"),
        ({"stride": 0}, r"^stages\[1\].stride: 0 is too small"),
        ({"groups": 0}, r"^stages\[1\].groups: 0 is too small"),
        ({"groups": 5}, r"^stages\[1\].groups: 5 does not divide 128 channels of stage 3"),
        ({"out": 40}, "shortcut: 'zero_pad' cannot go from 64 to 40 channels"),
    ],
    ids=str,
)
def test_illegal_rows_raise(row: dict[str, int], message: str) -> None:
    net = replace(get_net("resnet50"), shortcut="zero_pad")
    # The second row: 128 inner channels, from 256 to 512 channels.
    first, second, *rest = net.stages
    if row == {"out": 40}:
        first = replace(first, out=64)
    with pytest.raises(ConfigError, match=message):
        create_model(replace(net, stages=(first, replace(second, **row), *rest)))


@pytest.mark.parametrize(
    ("widths", "groups", "message"),
    [
        ((16, 16), 4, None),
        ((16, 18), 4, "groups: 4 does not divide 18 channels of stage 2"),
        ((18, 16), 4, "groups: 4 does not divide 18 channels of stage 2"),
    ],
)
def test_groups_of_basic_blocks(widths: tuple[int, int], groups: int, message: str | None) -> None:
    """Both 3x3 convolutions are grouped: what comes in, is inside and goes out must divide."""
    row, stem = (
        Stage(block="basic", depth=2, mid=16, out=widths[1], groups=groups),
        Stem(width=widths[0], kernel=3, stride=1),
    )
    if message is None:
        assert_learns(create_model("resnet20", stem=stem, stages=(row,)), 8)
    else:
        with pytest.raises(ConfigError, match=message):
            create_model("resnet20", stem=stem, stages=(row,))
