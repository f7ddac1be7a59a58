"""What fetching and augmenting cost of a training step, on the CPU or a GPU.

    python -m benchmarks.data_pipeline [--model se_resnet20] [--precision bf16] [--steps 100] [--json FILE]

Two kinds of step alternate in one process: one takes its batch from the pipeline (indices, gather, crop, flip,
normalise, on the device), the other takes a batch prepared beforehand. The share is one minus the ratio of their
medians. Also printed: the seconds that an epoch of CIFAR-10 (50,000 images) takes at the first kind's median.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.step_overhead import quartiles, synthetic
from senet import create_model
from senet.config import to_dict
from senet.recipes.registry import recipe_for
from senet.runs.environment import this_environment
from senet.training.schedule import make_optimizer

CIFAR_IMAGES = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="se_resnet20")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=30, help="of each kind")
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True

    recipe = recipe_for("cifar10", model=args.model)
    recipe = replace(recipe, data=replace(recipe.data, batch_size=128))
    data = synthetic(recipe, CIFAR_IMAGES)
    model = create_model(recipe.model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if args.compile:
        model.compile()
    optimizer = make_optimizer(model, recipe.optim)
    keys = iter([key for epoch in range(9) for key in _epoch(data, recipe.data.batch_size, epoch)])

    def fetch() -> tuple[torch.Tensor, torch.Tensor]:
        return data.train.prepare(data.train[next(keys)], device)

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        images, targets = batch
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            loss = F.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def timed(from_pipeline: bool) -> float:
        _wait(device)
        start = time.perf_counter()
        step(fetch() if from_pipeline else fixed)
        _wait(device)
        return time.perf_counter() - start

    fixed = fetch()
    for _ in range(args.warm_up):
        timed(True)
        timed(False)
    with_data, without = zip(*((timed(True), timed(False)) for _ in range(args.steps)), strict=True)
    step_s, bare_s = statistics.median(with_data), statistics.median(without)
    result = {
        "model": args.model,
        "precision": args.precision,
        "compiled": args.compile,
        "batch_size": recipe.data.batch_size,
        "steps": args.steps,
        "step_ms": {"median": 1000 * step_s, "quartiles": quartiles(list(with_data))},
        "step_without_pipeline_ms": {"median": 1000 * bare_s, "quartiles": quartiles(list(without))},
        "pipeline_share": 1 - bare_s / step_s,
        "epoch_seconds": step_s * -(-CIFAR_IMAGES // recipe.data.batch_size),
        "environment": to_dict(this_environment(device)),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def _epoch(data, batch_size: int, epoch: int) -> list:
    order = data.train.order(batch_size)
    order.set_epoch(epoch)
    return list(order)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
