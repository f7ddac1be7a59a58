"""Learning rates against the formulas, written out."""

from __future__ import annotations

from math import cos, pi

import pytest
import torch
from torch import nn

from senet.recipes.recipe import OptimRecipe, ScheduleRecipe, TrainRecipe
from senet.training.schedule import Plateau, make_optimizer, per_step, rate


def test_cosine_is_the_protocols_formula_per_step() -> None:
    factor = rate(ScheduleRecipe(kind="cosine"), epochs=4, steps_per_epoch=25)
    assert [factor(t) for t in range(100)] == [(1 + cos(pi * t / 100)) / 2 for t in range(100)]


def test_step_cuts_at_the_paper_s_epochs() -> None:
    # Table 2: a tenth every 30 of 100 epochs.
    factor = rate(ScheduleRecipe(kind="step", milestones=(0.3, 0.6, 0.9)), epochs=100, steps_per_epoch=10)
    want = {0: 1, 299: 1, 300: 0.1, 599: 0.1, 600: 0.01, 899: 0.01, 900: 0.001, 999: 0.001}
    assert {t: factor(t) for t in want} == pytest.approx(want)
    # Section 6, footnote 2: 270 epochs, cuts at 125, 200 and 250.
    factor = rate(ScheduleRecipe(kind="step", milestones=(125 / 270, 200 / 270, 250 / 270)), 270, 1)
    assert [factor(e) for e in (124, 125, 199, 200, 249, 250)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_warm_up_climbs_in_a_line() -> None:
    schedule = ScheduleRecipe(kind="constant", warmup_epochs=0.5, warmup_start=0.2)
    factor = rate(schedule, epochs=2, steps_per_epoch=8)
    assert [factor(t) for t in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_constant_warm_up_stays_low_and_then_jumps() -> None:
    """Deep CIFAR networks: 0.01 for the first 400 iterations, then 0.1."""
    schedule = ScheduleRecipe(
        kind="step", milestones=(0.5, 0.75), warmup_epochs=400 / 391, warmup_start=0.1, warmup_shape="constant"
    )
    factor = rate(schedule, epochs=164, steps_per_epoch=391)
    want = {0: 0.1, 1: 0.1, 399: 0.1, 400: 1, 82 * 391 - 1: 1, 82 * 391: 0.1, 123 * 391: 0.01}
    assert {t: factor(t) for t in want} == pytest.approx(want)


def optimizer_and_scheduler(schedule: ScheduleRecipe) -> tuple:
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, OptimRecipe(lr=0.5))
    return optimizer, per_step(optimizer, schedule, TrainRecipe(epochs=10), steps=2)


def test_plateau_cuts_when_the_loss_stops_falling_and_at_most_so_often() -> None:
    schedule = ScheduleRecipe(kind="plateau", patience=2, gamma=0.1, cuts=2)
    optimizer, scheduler = optimizer_and_scheduler(schedule)
    plateau = Plateau(schedule, scheduler)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        for _ in range(2):
            optimizer.step()
            scheduler.step()
        plateau.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    # A cut after each second epoch without a fall.
    assert rates == pytest.approx([0.5, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005, 0.005, 0.005])


def test_plateau_goes_on_from_its_state() -> None:
    schedule = ScheduleRecipe(kind="plateau", patience=1, cuts=3)
    first, second = (Plateau(schedule, optimizer_and_scheduler(schedule)[1]) for _ in range(2))
    first.step(1.0)
    first.step(1.0)
    second.load_state_dict(first.state_dict())
    for plateau in (first, second):
        plateau.step(1.0)
    rates = [p.scheduler.optimizer.param_groups[0]["lr"] for p in (first, second)]
    assert rates == pytest.approx([0.005, 0.005])


@pytest.mark.parametrize(("decay", "decayed"), [("all", 6), ("no_shift", 5), ("weights", 2)])
def test_weight_decay_can_spare_norms_and_biases(decay: str, decayed: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    optimizer = make_optimizer(model, OptimRecipe(decay=decay, weight_decay=0.1))  # type: ignore[arg-type]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 6
    assert sum(len(g["params"]) for g in optimizer.param_groups if g["weight_decay"] == 0.1) == decayed
    if decay == "no_shift":
        assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(model[1].bias)]
    if decay == "weights":
        assert all(p.dim() > 1 for p in optimizer.param_groups[0]["params"])


def test_sgd_does_what_the_formula_says() -> None:
    # v = m v + g + wd p; with Nesterov p -= lr (g + wd p + m v).
    p = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))
    module = nn.Module()
    module.p = p
    optimizer = make_optimizer(module, OptimRecipe(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.01))
    value, v = 2.0, 0.0
    for gradient in (1.0, -0.5, 0.25):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        g = gradient + 0.01 * value
        v = 0.5 * v + g
        value -= 0.1 * (g + 0.5 * v)
        assert p.item() == pytest.approx(value, rel=1e-12)
