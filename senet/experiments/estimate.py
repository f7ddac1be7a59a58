"""How long runs will take here: what an image costs, measured once per machine, times the number of images."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from senet.config import to_dict
from senet.create import create_model
from senet.data import Counts, count_data
from senet.device import cpu_name
from senet.experiments.budget import run_seconds
from senet.experiments.experiment import Experiment
from senet.files import cache_folder
from senet.progress import Bar, span
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.folder import RUNS, read_value, write_value
from senet.runs.summary import read_summary
from senet.training.run import DTYPES, check_batches, device_of, fitted, on_threads

TIMINGS = "timings.json"
"""In senet's cache folder: what images cost on this machine, by `timing_key`."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Measured costs: a digest of what they depend on -> seconds per image in training and in evaluation."""

    by_key: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class EpochClock:
    """Seconds of an epoch of a recipe with its evaluation, called with the recipe.

    The cost of an image is measured once for each network, batch, precision and machine, and remembered in the user's
    cache folder.

    Args:
        recipes: Those that will be asked for, in however many epochs.
        jobs: Runs side by side, which share the CPU's threads.
        devices: Processes that train each run together, and divide its images.

    Raises:
        DataError: The images are absent.
        ConfigError: A recipe cannot run on this machine.
    """

    def __init__(self, recipes: Iterable[Recipe], jobs: int = 1, devices: int = 1) -> None:
        self.jobs, self.devices = jobs, devices
        self.counts: dict[DataRecipe, Counts] = {}
        path = cache_folder() / TIMINGS
        self.per_image = dict(read_value(Timings, path).by_key) if path.is_file() else {}
        missing: dict[str, tuple[Recipe, torch.device, int]] = {}
        for recipe in recipes:
            if recipe.data not in self.counts:
                self.counts[recipe.data] = count_data(recipe.data)
            setting = self.setting(recipe)
            check_batches(setting[0], self.counts[recipe.data].train, devices)
            if timing_key(*setting) not in self.per_image:
                missing[timing_key(*setting)] = setting
        for key, setting in Bar(missing.items(), "timing networks", unit="network"):
            self.per_image[key] = seconds_per_image(*setting)
        if missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_value(path, Timings(by_key=self.per_image))

    def __call__(self, recipe: Recipe) -> float:
        """Seconds of an epoch, but for the exchange of gradients."""
        seconds = epoch_cost(recipe, self.counts[recipe.data], *self.per_image[timing_key(*self.setting(recipe))])
        return seconds / self.devices

    def setting(self, recipe: Recipe) -> tuple[Recipe, torch.device, int]:
        """The recipe fitted to its images, its device, and the CPU threads of a run."""
        device = device_of(recipe)
        processes = self.jobs * self.devices
        threads = recipe.train.threads or (max(1, torch.get_num_threads() // processes) if device.type == "cpu" else 0)
        return fitted(recipe, self.counts[recipe.data].classes), device, threads


def time_left(experiments: Sequence[Experiment], folder: Path, clock: EpochClock) -> list[str]:
    """How long the unfinished runs of experiments take, in words, and an epoch of the slowest.

    Args:
        experiments: What is trained.
        folder: Where; finished runs there take no time.
        clock: For their recipes.
    """
    runs = {name: recipe for experiment in experiments for name, recipe in experiment.runs.items()}
    waiting = [recipe for name, recipe in runs.items() if read_summary(folder / RUNS / name) is None]
    if not waiting:
        return ["all finished"]
    total = sum(run_seconds(clock(recipe), recipe.train.epochs) for recipe in waiting) / clock.jobs
    slowest = max(waiting, key=clock)
    device = device_of(slowest)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    finished = len(runs) - len(waiting)
    side_by_side = f", {clock.jobs} at a time" if clock.jobs > 1 else ""
    side_by_side += f", each in {clock.devices} processes" if clock.devices > 1 else ""
    return [
        *([f"{finished} of them finished"] if finished else []),
        f"about {span(total)} on {where}{side_by_side}; an epoch of {slowest.name} {span(clock(slowest))}",
    ]


def epoch_cost(recipe: Recipe, counts: Counts, training: float, evaluation: float) -> float:
    """Seconds of an epoch from those of an image in training and in evaluation.

    >>> from senet.recipes.registry import get_recipe
    >>> round(epoch_cost(get_recipe("digits"), Counts(10, 1000, 100), 0.01, 0.001), 6)
    10.1
    """
    d, limit = recipe.data, recipe.train.limit_batches
    trained = min(counts.train, limit * d.batch_size) if limit else counts.train
    evaluated = min(counts.val, limit * d.eval_batch_size) if limit else counts.val
    return training * trained + evaluation * evaluated


def timing_key(recipe: Recipe, device: torch.device, threads: int) -> str:
    """A digest of all that the cost of an image depends on: network, batch, precision, machine, torch."""
    t = recipe.train
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_name()}, {os.cpu_count()} cores"
    parts = [
        *(to_dict(recipe.model), recipe.data.batch_size, recipe.data.image_size),
        *(t.precision, t.channels_last, t.fused, device.type, machine, threads, torch.__version__),
    ]
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def seconds_per_image(recipe: Recipe, device: torch.device, threads: int = 0) -> tuple[float, float]:
    """Seconds per image in training and in evaluation: the median of a few random batches.

    Args:
        recipe: Its network, image size, batch size and precision.
        device: Where to compute.
        threads: Of the CPU; 0 changes nothing.
    """
    t, d = recipe.train, recipe.data
    n = min(d.batch_size, 32 if device.type == "cpu" else 256)
    model = create_model(recipe.model, seed=0, device=device, fused=t.fused)
    layout = torch.channels_last if t.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    x: Any = torch.randn(n, recipe.model.in_channels, d.image_size, d.image_size, device=device)
    x = x.contiguous(memory_format=layout)
    y: Any = torch.zeros(n, dtype=torch.long, device=device)
    is_detector = recipe.task.name == "detection"
    if is_detector:
        x, y = _objects(recipe, n, device)

    def step(training: bool) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        model.train(training)
        autocast = torch.autocast(device.type, DTYPES[t.precision], enabled=t.precision != "fp32")
        with torch.set_grad_enabled(training), autocast:
            if is_detector:
                # In evaluation it detects; the labels are not asked for.
                found = model(x, y) if training else model(x)
                loss = torch.stack(list(found.values())).sum() if training else None
            else:
                loss = torch.nn.functional.cross_entropy(model(x), y)
        if training:
            assert loss is not None
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    with on_threads(threads):
        # The first step of each kind warms up. Where it is slow already, one more is enough.
        is_slow = step(True) > 1
        trained = sorted(step(True) for _ in range(1 if is_slow else 3))
        step(False)
        evaluated = [step(False) for _ in range(1 if is_slow else 2)]
    return trained[len(trained) // 2] / n, min(evaluated) / n


def _objects(recipe: Recipe, n: int, device: torch.device) -> tuple[Any, Any]:
    """Random images of the usual shape, 3 to 4, each with one object, as a detector takes them."""
    side = recipe.data.image_size
    images = [torch.randn(3, side, side * 4 // 3, device=device) for _ in range(n)]
    target = {"boxes": torch.tensor([[0.2, 0.2, 0.6, 0.7]], device=device) * side}
    target["labels"] = torch.ones(1, dtype=torch.long, device=device)
    if recipe.data.labels == "masks":
        target["masks"] = torch.ones(1, side, side * 4 // 3, dtype=torch.uint8, device=device)
    return images, [target] * n
