"""The switchboard, judged by the network itself, by gates written by hand, and by networks rewritten by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from senet import create_model, insert_
from senet.analysis.switchboard import Averages, Switchboard
from senet.errors import ConfigError
from senet.units.config import SEConfig


def timm_model(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=7)


def efficientnet() -> nn.Module:
    return pytest.importorskip("torchvision").models.efficientnet_b0(num_classes=7)


def inserted() -> nn.Module:
    model = create_model("resnet20", num_classes=7)
    insert_(model, SEConfig())
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, str]] = {
    "ours": (lambda: create_model("se_resnet20", num_classes=7), 32, 9, "features.stage3.block2.se"),
    "inserted": (inserted, 32, 9, ""),
    "seresnet50": (lambda: timm_model("seresnet50"), 32, 16, "layer2.1.se"),
    "mobilenetv3_small_100": (lambda: timm_model("mobilenetv3_small_100"), 64, 9, "blocks.3.0.se"),
    "efficientnet_b0": (efficientnet, 32, 16, "features.3.0.block.2"),
}


def lively(model: nn.Module) -> nn.Module:
    """With norms and biases drawn anew, so that no branch and no hidden layer is zero and every unit matters."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1)
            nn.init.normal_(m.bias, 0, 0.1)
        if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.shape[2:].numel() == 1:
            nn.init.normal_(m.weight, 0, m.weight.shape[1] ** -0.5)
            if m.bias is not None:
                nn.init.constant_(m.bias, 0.5)
    return model.eval()


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Switchboard, str]:
    make, size, count, unit = NETWORKS[request.param]
    torch.manual_seed(0)
    model = lively(make())
    board = Switchboard(model, torch.zeros(1, 3, size, size))
    assert len(board.units) == count
    unit = unit or list(board.units)[4]
    return model, torch.randn(1, 3, size, size), board, unit


@torch.no_grad()
def test_with_nothing_off_it_is_the_network(case: tuple) -> None:
    model, image, board, _ = case
    result = board.run(image)
    assert torch.equal(result.logits, model(image)[0])
    assert float(result.probabilities.sum()) == pytest.approx(1)
    assert {name: len(s) for name, s in result.gates.items()} == board.units


@torch.no_grad()
def test_a_unit_off_is_the_network_without_it(case: tuple) -> None:
    model, image, board, unit = case
    plain = copy.deepcopy(model)
    # The unit's own forward, by hand: the map as it came.
    plain.get_submodule(unit).forward = MethodType(lambda self, u: u, plain)
    off = board.run(image, {unit})
    assert torch.equal(off.logits, plain(image)[0])
    assert not torch.equal(off.logits, board.run(image).logits)


@torch.no_grad()
def test_all_off_and_on_again(case: tuple) -> None:
    model, image, board, _ = case
    plain = copy.deepcopy(model)
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    for name in board.units:
        plain.get_submodule(name).forward = MethodType(lambda self, u: u, plain)
    assert torch.equal(board.run(image, set(board.units)).logits, plain(image)[0])
    assert torch.equal(board.run(image).logits, model(image)[0])
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_the_places_add_up_to_the_logit() -> None:
    """Behind average pooling and one linear layer, by hand: the classifier's row times the last map, over H x W."""
    torch.manual_seed(0)
    model = lively(create_model("se_resnet20", num_classes=7))
    image = torch.randn(1, 3, 32, 32)
    found = Switchboard(model, torch.zeros(1, 3, 32, 32)).run(image)
    with torch.no_grad():
        u = model.features(image)[0]
        k = int(found.logits.argmax())
        by_hand = torch.einsum("c,chw->hw", model.classifier.weight[k], u) / u[0].numel()
    assert found.places is not None
    torch.testing.assert_close(found.places, by_hand)
    torch.testing.assert_close(found.places.sum() + model.classifier.bias[k].detach(), found.logits[k])


def test_places_of_any_network(case: tuple) -> None:
    """The map is that of the last places, and follows what is switched off."""
    _, image, board, unit = case
    on, off = board.run(image).places, board.run(image, {unit}).places
    assert on is not None
    assert off is not None
    assert on.shape == off.shape
    assert on.numel() > 1
    assert not torch.equal(on, off)


@torch.no_grad()
def test_the_gates_are_those_of_the_equation() -> None:
    torch.manual_seed(0)
    model = lively(create_model("se_resnet20", num_classes=7))
    unit = model.get_submodule("features.stage3.block1.se")
    seen: list[Tensor] = []
    handle = unit.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    image = torch.randn(1, 3, 32, 32)
    board = Switchboard(model, image)
    seen.clear()
    gates = board.run(image).gates["features.stage3.block1.se"]
    handle.remove()
    z = seen[0][0].mean((1, 2))
    hidden = (unit.fc1.weight @ z + unit.fc1.bias).clamp(min=0)
    by_hand = 1 / (1 + (-(unit.fc2.weight @ hidden + unit.fc2.bias)).exp())
    torch.testing.assert_close(gates, by_hand)
    # A unit that is off is asked all the same, and what comes before it does not change what it is asked about.
    off = board.run(image, {"features.stage3.block1.se"}).gates
    assert torch.equal(off["features.stage3.block1.se"], gates)
    later = "features.stage4.block1.se"
    assert not torch.equal(off[later], board.run(image).gates[later])


def test_a_gate_for_each_place_counts_by_its_mean() -> None:
    from senet.units.config import NoSqueezeConfig

    torch.manual_seed(0)
    model = lively(create_model("se_resnet20", se=NoSqueezeConfig()))
    image = torch.randn(1, 3, 32, 32)
    unit = model.get_submodule("features.stage2.block1.se")
    maps: list[Tensor] = []
    unit.register_forward_pre_hook(lambda _, args: maps.append(args[0].clone()))
    gates = Switchboard(model, image).run(image).gates["features.stage2.block1.se"]
    torch.testing.assert_close(gates, unit.gate(maps[-1])[0].mean((1, 2)).detach())


def test_a_unit_that_runs_twice_is_two() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.se = SEConfig(reduction=1).build(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.se(self.se(x)).mean((2, 3))

    image = torch.rand(1, 4, 5, 5)
    model = Twice()
    board = Switchboard(model, image)
    assert list(board.units) == ["se", "se#2"]
    torch.testing.assert_close(board.run(image, {"se#2"}).logits, model.se(image).mean((2, 3))[0].detach())


def test_mistakes() -> None:
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="no attention unit"):
        Switchboard(create_model("resnet20"), image)
    with pytest.raises(ConfigError, match=r"does not return logits \(1, K\)"):
        Switchboard(create_model("se_resnet20"), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ConfigError, match=r"off: 'features.stage2.block1' is not known \(did you mean"):
        Switchboard(create_model("se_resnet20"), image).run(image, {"features.stage2.block1"})


def test_averages_of_another_network() -> None:
    units = {"a.se": 4, "b.se": 8}
    good = {name: np.zeros((3, c), np.float32) for name, c in units.items()}
    overall = {name: np.zeros(c, np.float32) for name, c in units.items()}
    Averages(good, overall).check(units, 3)
    with pytest.raises(ConfigError, match=r"has no unit 'c\.se'"):
        Averages(good, overall).check({"c.se": 4}, 3)
    with pytest.raises(ConfigError, match=r"averages of a\.se have the shapes \(3, 4\)"):
        Averages(good, overall).check(units, 5)


@torch.no_grad()
def test_a_unit_off_has_the_gates_that_are_given(case: tuple) -> None:
    _, image, board, unit = case
    own = board.run(image)
    # Its own gates change nothing but rounding; ones are what "off" is without others.
    same = board.run(image, {unit}, own.gates)
    torch.testing.assert_close(same.logits, own.logits, rtol=1e-4, atol=1e-5)
    ones = {name: torch.ones(channels) for name, channels in board.units.items()}
    assert torch.equal(board.run(image, {unit}, ones).logits, board.run(image, {unit}).logits)
    assert not torch.equal(board.run(image, {unit}, {unit: own.gates[unit] * 1e6}).logits, own.logits)
