"""Runs that are killed at random and go on: is an image lost or repeated, are the weights those of an unbroken run?

    python -m benchmarks.faults 30 --out table.jsonl

Each round trains a small network on the digits for two epochs in one process or two, with checkpoints every second
batch, kills one of them or all (SIGKILL) or asks all to stop (SIGTERM) at a random moment, and resumes with one to
three processes. It compares the images of each epoch, by digests of what was prepared, and where the layout is the
same the weights.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.runs.folder import LAST, SUMMARY
from senet.units.config import SEConfig
from tests.training.conftest import tiny_net
from tests.training.worker import batches_kept, finish, start, trained_on, trained_together, written

FAULTS = ("SIGKILL of one process", "SIGKILL of all", "SIGTERM of all")


def small_recipe() -> Recipe:
    """An SE network of 1,400 parameters, 100 digits in batches of 4, two epochs."""
    return Recipe(
        name="tiny",
        model=tiny_net(SEConfig(reduction=2)),
        data=DataRecipe(
            batch_size=4, eval_batch_size=32, image_size=8, crop="pad", crop_padding=1, mixup=0.4, flip=True
        ),
        optim=OptimRecipe(lr=0.05, nesterov=True, decay="weights"),
        schedule=ScheduleRecipe(kind="cosine", warmup_epochs=0.5),
        train=TrainRecipe(epochs=2, threads=1, ema=0.9, save_batches=2, drop_path=0.3),
    )


def one(root: Path, whole: Path, seed: int, before: int, recipe: Recipe) -> dict[str, Any]:
    """One fault, and what became of the run."""
    draw = random.Random(seed)
    after, fault = draw.choice((before, 1, 2, 3)), draw.choice(FAULTS)
    folder = root / f"round{seed}"
    logs = [root / f"{seed}-{name}.log" for name in ("before", "after")]
    settings = written(recipe, folder, workers=draw.choice((0, 1)), log=str(logs[0]))
    running = start(before, "-m", "tests.training.worker", str(settings))
    while not (folder / LAST).is_file():
        time.sleep(0.02)
    time.sleep(draw.uniform(0, 6))
    victims = [draw.choice(running)] if fault == FAULTS[0] else running
    for process in victims:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if fault == FAULTS[2] else signal.SIGKILL)
    finish(running)
    if (folder / SUMMARY).is_file():
        return {"fault": fault, "before": before, "after": 0, "outcome": "had ended before"}
    kept = batches_kept(folder, recipe)
    ended = trained_together(after, recipe, folder, log=str(logs[1]), resume=True)
    found = sorted(trained_on(logs[0], before=kept) + trained_on(logs[1]))
    lost = sum((Counter(trained_on(whole / "log")) - Counter(found)).values())
    repeated = sum((Counter(found) - Counter(trained_on(whole / "log"))).values())
    states = [torch.load(f / LAST, weights_only=True)["state_dict"] for f in (folder, whole / "run")]
    is_equal = all(torch.equal(t, states[1][name]) for name, t in states[0].items()) if after == before else None
    outcome = "went on" if all(status == 0 for status, _ in ended) else str(ended)
    shutil.rmtree(folder)
    return {
        "fault": fault,
        "before": before,
        "after": after,
        "kept": kept,
        "outcome": outcome,
        "lost": lost,
        "repeated": repeated,
        "equal": is_equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--out", type=Path, required=True, help="JSON, a line for each round")
    args = parser.parse_args()
    recipe, wholes = small_recipe(), {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for before in (1, 2):
            wholes[before] = root / f"whole{before}"
            wholes[before].mkdir()
            log = str(wholes[before] / "log")
            assert all(s == 0 for s, _ in trained_together(before, recipe, wholes[before] / "run", log=log))
        for seed in range(args.first, args.first + args.rounds):
            before = 1 + seed % 2
            found = {"seed": seed, **one(root, wholes[before], seed, before, recipe)}
            print(found, flush=True)
            with open(args.out, "a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
