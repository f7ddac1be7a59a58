"""Errors with replaced gates are those of networks changed by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from senet import create_model
from senet.analysis.ablate import ablate
from senet.analysis.collect import collect_gates
from tests.analysis.planted import Planted, batches, images, lively_

CLASSES = tuple("0123456789")


class Fixed(nn.Module):
    """A unit of these gates, (C,) for all images or (N, C)."""

    def __init__(self, gates: Tensor) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, u: Tensor) -> Tensor:
        return u * self.gates.reshape(-1, u.shape[1], 1, 1)


def error(model: nn.Module, x: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return 100 * float((model.eval()(x)[:, :10].argmax(1) != targets).double().mean())


@pytest.mark.parametrize("whose", ["ours", "timm's"])
def test_off_and_mean_are_networks_changed_by_hand(whose: str) -> None:
    torch.manual_seed(0)
    if whose == "ours":
        model = create_model("se_resnet20", num_classes=10)
    else:
        model = timm.create_model("mobilenetv3_small_050", num_classes=12)
    x = torch.randn(24, 3, 16, 16) * torch.rand(24, 3, 1, 1) * 3
    lively_(model, x)
    with torch.no_grad():
        targets = model.eval()(x)[:, :10].argmax(1)
    gates = collect_gates(model, batches(x, targets, 12), CLASSES, outputs=range(10))
    assert gates.top1_error == 0
    found = ablate(model, batches(x, targets, 12), gates, range(10))
    units = {u.name: u for u in found.units}
    some = [*units][:2] + [*units][-2:]
    replaced = {name: model.get_submodule(name) for name in units}
    for how in ("one", "mean"):
        by_hand = {
            n: Fixed(torch.from_numpy(u.overall_mean) if how == "mean" else torch.ones(u.channels))
            for n, u in units.items()
        }
        for name in some:
            model.set_submodule(name, by_hand[name])
            assert units[name].ablation[how] == pytest.approx(error(model, x, targets)), (how, name)
            model.set_submodule(name, replaced[name])
        for name in units:
            model.set_submodule(name, by_hand[name])
        assert found.ablation[how] == pytest.approx(error(model, x, targets))
        for name in units:
            model.set_submodule(name, replaced[name])
    assert error(model, x, targets) == 0
    # All networks would agree if no gate mattered.
    assert found.ablation["one"] > 0
    assert found.ablation["mean"] > 0
    assert found.ablation["other"] > 0


def test_other_gates_are_another_images() -> None:
    """Two classes whose answer is in the gates alone: with those of the other image, every answer is wrong."""

    class Gate(Planted):
        def forward(self, x: Tensor) -> Tensor:
            # Ones times gates, so that the sign of the mean is known from nothing but the gates.
            return self.excite(self.spread(x)).mean((2, 3)) / self.spread(x).mean((2, 3))

    x, targets = images(torch.tensor([1.0, -1.0])), torch.tensor([0, 1])
    model = Gate((3.0, -3.0))
    gates = collect_gates(model, batches(x, targets, 2), ("up", "down"), outputs=(0, 1))
    assert gates.top1_error == 0
    found = ablate(model, batches(x, targets, 2), gates, (0, 1))
    assert found.units[0].ablation["other"] == 100
    assert found.ablation == found.units[0].ablation
    # One alone in its batch keeps its own.
    assert ablate(model, batches(x, targets, 1), gates, (0, 1)).ablation["other"] == 0
