"""What our training loop costs beside a plain PyTorch loop: the same network, images, augmentation, batch and threads.

    python -m benchmarks.step_overhead [--steps 40] [--model se_resnet20] [--threads 2] [--json FILE] [FIELD=VALUE ...]

    python -m benchmarks.step_overhead --threads 1 optim.kind=adamw data.mixup=0.2 data.auto_augment=randaugment

Interleaved in one process: after each step of Lightning's loop a callback makes one step of a loop written by hand, on
its own copy of the network. The hand-written step fetches and augments its batch with the same functions, so what is
compared is the loop: loaders, hooks, counting, schedule, signals. Both augment in the main process. Medians over the
steps after the warm-up; the interval of their ratio is from 2,000 bootstrap samples of the pairs of steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback

from senet import create_model
from senet.config import override, to_dict
from senet.data import Data, TensorSplit
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from senet.runs.environment import this_environment
from senet.training import run
from senet.training.schedule import make_optimizer


def synthetic(recipe: Recipe, images: int) -> Data:
    """CIFAR-shaped noise: the time of a step does not depend on what is in the images."""
    size = recipe.data.image_size
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, size, size), generator=g, dtype=torch.uint8)
    targets = torch.randint(0, 10, (images,), generator=g)
    train = TensorSplit(pixels, targets, recipe.data, 0)
    val = TensorSplit(pixels[:1], targets[:1], recipe.data, None)
    return Data("noise", tuple("0123456789"), 3, train, val, "noise", "noise")


class ByHand:
    """The loop that one would write."""

    def __init__(self, recipe: Recipe, data: Data, device: torch.device) -> None:
        self.model = create_model(recipe.model, seed=0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.model, recipe.optim)
        self.data, self.device, self.batch_size = data, device, recipe.data.batch_size
        self.n = len(data.train)
        self.order = torch.randperm(self.n)
        self.at = 0

    def step(self) -> None:
        indices = self.order[self.at : self.at + self.batch_size]
        self.at = (self.at + self.batch_size) % (self.n - self.batch_size)
        images, targets = self.data.train.prepare(self.data.train[(0, indices.tolist())], self.device)
        loss = F.cross_entropy(self.model(images), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Interleave(Callback):
    """Times each of Lightning's steps, and after it one step by hand."""

    def __init__(self, by_hand: ByHand) -> None:
        self.by_hand = by_hand
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.mark = 0.0

    def now(self) -> float:
        if self.by_hand.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        end = self.now()
        if self.mark:
            self.ours.append(end - self.mark)
        self.by_hand.step()
        self.mark = self.now()
        self.theirs.append(self.mark - end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--model", default="se_resnet20")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="fields of the recipe")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    recipe = override(recipe_for("cifar10", model=args.model), "data.workers=0", *args.fields)
    steps = args.steps + args.warm_up
    recipe = replace(recipe, train=replace(recipe.train, epochs=1, threads=args.threads))
    data = synthetic(recipe, recipe.data.batch_size * steps)
    device = run.device_of(recipe)
    meter = Interleave(ByHand(run.fitted(recipe, len(data.classes)), data, device))
    with tempfile.TemporaryDirectory() as folder:
        run.train(recipe, data, Path(folder) / "run", quiet=True, callbacks=[meter])
    ours, theirs = (values[args.warm_up :] for values in (meter.ours, meter.theirs))
    result = {
        "model": args.model,
        "fields": args.fields,
        "batch_size": recipe.data.batch_size,
        "steps": len(ours),
        "ours_ms": {"median": 1000 * statistics.median(ours), "quartiles": quartiles(ours)},
        "by_hand_ms": {"median": 1000 * statistics.median(theirs), "quartiles": quartiles(theirs)},
        "ratio_of_medians": statistics.median(ours) / statistics.median(theirs),
        "ratio_interval_95": interval(ours, theirs),
        "environment": to_dict(this_environment(device)),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def interval(ours: list[float], theirs: list[float]) -> list[float]:
    """The 95 % interval of the ratio of medians."""
    random = np.random.default_rng(0)
    at = random.integers(0, len(ours), (2000, len(ours)))
    ratios = np.median(np.array(ours)[at], 1) / np.median(np.array(theirs[-len(ours) :])[at], 1)
    return [round(float(v), 3) for v in np.quantile(ratios, (0.025, 0.975))]


def quartiles(seconds: list[float]) -> list[float]:
    low, _, high = statistics.quantiles(seconds, n=4)
    return [round(1000 * low, 2), round(1000 * high, 2)]


if __name__ == "__main__":
    main()
