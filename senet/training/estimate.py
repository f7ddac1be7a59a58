"""How long runs will take here: what an image costs, measured, times how many there are.

`Counts` come from `senet.data.count_data`, which neither reads nor downloads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from senet.create import create_model
from senet.models.net import Net
from senet.recipes.recipe import DataRecipe, Recipe
from senet.training.run import DTYPES, device_of, fitted, on_threads

STARTING = 8.0
"""Seconds that a run takes to begin."""


class Counts(Protocol):
    """Numbers of classes, and of images to train with and to validate with."""

    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def train(self) -> int: ...  # noqa: D102
    @property
    def val(self) -> int: ...  # noqa: D102


def epoch_seconds(
    recipes: Mapping[str, Recipe], count: Callable[[DataRecipe], Counts], jobs: int = 1
) -> dict[str, float]:
    """Seconds of an epoch of each recipe, with its evaluation, where `jobs` runs share the CPU's threads."""
    counts: dict[DataRecipe, Counts] = {}
    costs: dict[tuple[Net, int, str], tuple[float, float]] = {}
    found = {}
    for name, recipe in recipes.items():
        d, t = recipe.data, recipe.train
        if d not in counts:
            counts[d] = count(d)
        here = fitted(recipe, counts[d].classes)
        device = device_of(recipe)
        kind = (here.model, d.batch_size, t.precision)
        if kind not in costs:
            threads = t.threads or (max(1, torch.get_num_threads() // jobs) if device.type == "cpu" else 0)
            costs[kind] = seconds_per_image(here, device, threads)
        most = t.limit_batches
        images = [
            min(n, most * batch) if most else n
            for n, batch in ((counts[d].train, d.batch_size), (counts[d].val, d.eval_batch_size))
        ]
        found[name] = sum(cost * n for cost, n in zip(costs[kind], images, strict=True))
    return found


def run_seconds(epoch: float, epochs: int) -> float:
    """Seconds of a run, from those of an epoch."""
    return STARTING + epoch * epochs


def seconds_per_image(recipe: Recipe, device: torch.device, threads: int = 0) -> tuple[float, float]:
    """What an image costs in training and in evaluation, in seconds: the median of a few batches of random ones.

    threads: of the CPU; 0 leaves them.
    """
    t, d = recipe.train, recipe.data
    n = min(d.batch_size, 32 if device.type == "cpu" else 256)
    model = create_model(recipe.model, seed=0, device=device, fused=t.fused)
    layout = torch.channels_last if t.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(n, recipe.model.in_channels, d.image_size, d.image_size, device=device)
    x = x.contiguous(memory_format=layout)
    y = torch.zeros(n, dtype=torch.long, device=device)

    def step(training: bool) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        model.train(training)
        autocast = torch.autocast(device.type, DTYPES[t.precision], enabled=t.precision != "fp32")
        with torch.set_grad_enabled(training), autocast:
            loss = torch.nn.functional.cross_entropy(model(x), y)
        if training:
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with on_threads(threads):
        # The first of each warms up; where it is slow already, one more will do.
        is_slow = step(True) > 1
        trained = sorted(step(True) for _ in range(1 if is_slow else 3))
        step(False)
        evaluated = [step(False) for _ in range(1 if is_slow else 2)]
    return trained[len(trained) // 2] / n, min(evaluated) / n
