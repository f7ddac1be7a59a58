"""Runs that are killed at random and go on: is an image lost or repeated, are the weights those of an unbroken run?

    python -m benchmarks.faults 30 --out table.jsonl

Each round trains a small network on the digits for two epochs, with checkpoints every second batch. Up to three times
it is stopped at a random moment, one process of it or all (SIGKILL) or all by SIGTERM, and resumed: half of the rounds
with as many processes as before, the others with one to three. The images of each epoch are compared with those of an
unbroken run, by digests of what was prepared; where the layout stayed, so are the weights.

The processes are forked from this one, which has imported the libraries, so that a round takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch

from senet.errors import SenetError
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.runs.folder import LAST, SUMMARY
from senet.units.config import SEConfig
from tests.training import worker
from tests.training.conftest import tiny_net
from tests.training.worker import batches_kept, free_port, trained_on, variables, written

FAULTS = ("SIGKILL of one process", "SIGKILL of all", "SIGTERM of all")
KILLS = 3
"""Faults of a round at most."""

BATCH, BATCHES = 4, 50
"""Images of a batch, and batches of two epochs."""


def small_recipe() -> Recipe:
    """An SE network of 1,400 parameters, 100 digits in batches of 4, two epochs."""
    return Recipe(
        name="tiny",
        model=tiny_net(SEConfig(reduction=2)),
        data=DataRecipe(
            batch_size=BATCH, eval_batch_size=32, image_size=8, crop="pad", crop_padding=1, mixup=0.4, flip=True
        ),
        optim=OptimRecipe(lr=0.05, nesterov=True, decay="weights"),
        schedule=ScheduleRecipe(kind="cosine", warmup_epochs=0.5),
        train=TrainRecipe(epochs=2, threads=1, ema=0.9, save_batches=2, drop_path=0.3),
    )


def begin(world: int, recipe: Recipe, folder: Path, log: Path, **settings: Any) -> list[ForkProcess]:
    """Start to train in several processes, as torchrun would; `settings`: those of the worker."""
    arguments = json.loads(written(recipe, folder, log=str(log), **settings).read_text())
    fork, port = get_context("fork"), free_port()
    running = [fork.Process(target=work, args=(variables(r, world, port), arguments, log)) for r in range(world)]
    for process in running:
        process.start()
    return running


def work(environment: Mapping[str, str], arguments: Mapping[str, Any], log: Path) -> None:
    """What a process does; it ends with 1 for an error that the library names."""
    os.environ.update(environment)
    errors = os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    try:
        worker.main(**arguments)
    except SenetError as error:
        sys.exit(f"error: {error}")


def finish(running: Sequence[ForkProcess]) -> list[int]:
    """Wait for processes; their exit statuses, negative for a signal."""
    for process in running:
        process.join(500)
    assert all(process.exitcode is not None for process in running), "a process hangs"
    return [process.exitcode or 0 for process in running]


def wait_for(batches: int, log: Path, running: Sequence[ForkProcess]) -> None:
    """Return when so many batches are in the log, or a process has ended."""
    while all(process.is_alive() for process in running):
        if log.is_file() and log.read_bytes().count(b"\n") >= BATCH * batches:
            return
        time.sleep(0.01)


def kill(fault: str, running: Sequence[ForkProcess], draw: random.Random) -> None:
    """Send the signals of a fault to processes that still run."""
    for process in [draw.choice(running)] if fault == FAULTS[0] else running:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGTERM if fault == FAULTS[2] else signal.SIGKILL)


def one_round(root: Path, whole: Path, seed: int, before: int, recipe: Recipe) -> dict[str, Any]:
    """The faults of a run, and what became of it."""
    draw = random.Random(seed)
    folder, world, stays = root / f"round{seed}", before, draw.random() < 0.5
    faults: list[dict[str, Any]] = []
    found: list[str] = []
    kept = 0
    for leg in range(KILLS):
        log = root / f"{seed}-{leg}.log"
        running = begin(world, recipe, folder, log, workers=draw.choice((0, 1)), resume=leg > 0)
        wait_for(draw.randint(0 if leg else 1, BATCHES - kept), log, running)
        # Anywhere in the batch, or in the evaluation behind it.
        time.sleep(draw.uniform(0, 0.1))
        fault = draw.choice(FAULTS)
        kill(fault, running, draw)
        ended = finish(running)
        reached = batches_kept(folder, recipe)
        found += trained_on(log, before=reached - kept)
        if (folder / SUMMARY).is_file():
            break
        kept = reached
        faults.append({"fault": fault, "processes": world, "kept": kept, "ended": ended})
        world = before if stays else draw.choice((1, 2, 3))
    else:
        log = root / f"{seed}-last.log"
        ended = finish(begin(world, recipe, folder, log, resume=True))
        assert not any(ended), (seed, ended, log.with_suffix(".err").read_text())
        found += trained_on(log)
    lost = sum((Counter(trained_on(whole / "log")) - Counter(found)).values())
    repeated = sum((Counter(found) - Counter(trained_on(whole / "log"))).values())
    states = [torch.load(f / LAST, weights_only=True)["state_dict"] for f in (folder, whole / "run")]
    same = all(torch.equal(t, states[1][name]) for name, t in states[0].items())
    layouts = {before, world, *(fault["processes"] for fault in faults)}
    shutil.rmtree(folder)
    return {
        "seed": seed,
        "faults": faults,
        "last": world,
        "lost": lost,
        "repeated": repeated,
        "equal": same if layouts == {before} else None,
    }


def counts(rows: Sequence[dict[str, Any]]) -> str:
    """The rounds of a file in a few lines."""
    faults = Counter((f["fault"], f["processes"]) for row in rows for f in row["faults"])
    lines = [f"{fault}, of {world}: {n}" for (fault, world), n in sorted(faults.items())]
    equal = Counter(row["equal"] for row in rows if row["faults"])
    return "\n".join(
        [
            f"{sum(faults.values())} faults in {len(rows)} runs",
            *lines,
            f"images lost: {sum(row['lost'] for row in rows)}, repeated: {sum(row['repeated'] for row in rows)}",
            f"weights as unbroken: {equal[True]} of {equal[True] + equal[False]} runs whose layout stayed",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", type=int, help="how many at least")
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--out", type=Path, required=True, help="JSON, a line for each round")
    args = parser.parse_args()
    recipe, rows = small_recipe(), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        wholes = {world: root / f"whole{world}" for world in (1, 2)}
        for world, whole in wholes.items():
            whole.mkdir()
            assert not any(finish(begin(world, recipe, whole / "run", whole / "log")))
        for seed in count(args.first):
            if sum(len(row["faults"]) for row in rows) >= args.faults:
                break
            rows.append(one_round(root, wholes[1 + seed % 2], seed, 1 + seed % 2, recipe))
            print(rows[-1], flush=True)
            with open(args.out, "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(counts(rows))


if __name__ == "__main__":
    main()
