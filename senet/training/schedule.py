"""The learning rate over a run."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from senet.recipes.recipe import OptimRecipe, ScheduleRecipe, TrainRecipe
from senet.training.trunk import depths


def rate(schedule: ScheduleRecipe, epochs: int, steps_per_epoch: int) -> Callable[[int], float]:
    """The factor on the learning rate at each optimiser step, counted from 0.

    "plateau" is 1 here but for the warm-up: its cuts come from `plateau`.

    >>> cosine = rate(ScheduleRecipe(kind="cosine"), epochs=10, steps_per_epoch=10)
    >>> cosine(0), cosine(50)
    (1.0, 0.5)
    """
    total = epochs * steps_per_epoch
    warm = round(schedule.warmup_epochs * steps_per_epoch)
    cuts = [round(m * total) for m in schedule.milestones]

    def factor(step: int) -> float:
        if schedule.kind == "cosine":
            value = (1 + cos(pi * step / total)) / 2
        else:
            value = schedule.gamma ** sum(step >= cut for cut in cuts)
        if step < warm:
            climbed = step / warm if schedule.warmup_shape == "linear" else 0.0
            value *= schedule.warmup_start + (1 - schedule.warmup_start) * climbed
        return value

    return factor


def make_optimizer(model: nn.Module, optim: OptimRecipe) -> torch.optim.Optimizer:
    """The optimizer of a network's parameters, in groups of equal learning rate and weight decay.

    The classifier's group is the first. Raises ConfigError for a network whose classifier is not found, where the
    trunk's learning rate differs.
    """
    shifts = {id(m.bias) for m in model.modules() if isinstance(m, _BatchNorm)}

    def decays(parameter: nn.Parameter) -> bool:
        if optim.decay == "no_shift":
            return id(parameter) not in shifts
        # Weights of convolutions and linear layers are matrices or more; norms and biases are vectors.
        return optim.decay == "all" or parameter.dim() > 1

    depth = depths(model) if optim.trunk_lr != 1 or optim.layer_decay != 1 else {}
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        groups.setdefault((depth.get(name, 0), not decays(p)), []).append(p)
    found = [
        {
            "params": parameters,
            "lr": optim.lr * (optim.trunk_lr if stage else 1) * optim.layer_decay**stage,
            "weight_decay": 0.0 if is_spared else optim.weight_decay,
        }
        for (stage, is_spared), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    if optim.kind == "adamw":
        return torch.optim.AdamW(found, lr=optim.lr, betas=optim.betas)
    return torch.optim.SGD(found, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov)


def per_step(optimizer: torch.optim.Optimizer, schedule: ScheduleRecipe, train: TrainRecipe, steps: int) -> LambdaLR:
    """The schedule as torch's own, stepped once per optimiser step; `steps`: optimiser steps in an epoch."""
    return LambdaLR(optimizer, rate(schedule, train.epochs, steps))


class Plateau:
    """Cuts the rate when the validation loss stops falling, on top of the per-step schedule.

    Torch's ReduceLROnPlateau decides; the cut is made in the base rates, which the per-step schedule multiplies.
    """

    def __init__(self, schedule: ScheduleRecipe, scheduler: LambdaLR) -> None:
        self.scheduler = scheduler
        # It watches a rate of its own: 1, gamma, gamma^2, ...
        self.watched = torch.optim.SGD([torch.zeros(1, dtype=torch.float32, device="cpu")], lr=1.0)
        self.judge = ReduceLROnPlateau(
            self.watched,
            factor=schedule.gamma,
            # Torch cuts when there are more epochs without a fall than its patience; any fall is a fall.
            patience=schedule.patience - 1,
            threshold=0.0,
            min_lr=schedule.gamma**schedule.cuts,
            eps=0,
        )
        self.base = list(scheduler.base_lrs)

    def step(self, loss: float) -> None:
        """Take in one epoch's validation loss."""
        self.judge.step(loss)
        self.apply()

    def apply(self) -> None:
        """Set the rates to what has been decided so far."""
        factor = self.watched.param_groups[0]["lr"]
        self.scheduler.base_lrs = [base * factor for base in self.base]
        now = self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        for group, base in zip(self.scheduler.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = base * now

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs to know."""
        judge = {k: v for k, v in self.judge.state_dict().items() if isinstance(v, (int, float, str))}
        return {"judge": judge, "factor": self.watched.param_groups[0]["lr"]}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state_dict()`."""
        self.judge.load_state_dict(state["judge"])  # type: ignore[arg-type]
        self.watched.param_groups[0]["lr"] = state["factor"]
        self.apply()
