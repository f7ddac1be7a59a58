"""One of several processes that train on the digits, for tests: `python -m tests.training.worker SETTINGS.json`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.precision import DoublePrecision

from senet.data import Data, open_data, splits
from senet.errors import SenetError
from senet.processes import gathered
from senet.recipes.recipe import Recipe
from senet.runs.environment import is_continued
from senet.runs.folder import LAST
from senet.runs.recipe_file import read_recipe, write_recipe
from senet.training import run
from senet.training.devices import together
from senet.training.module import TrainingModule
from tests.training.conftest import small


def free_port() -> int:
    """A port of this machine that no process uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    found = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    found |= {"TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    return {name: str(value) for name, value in {**found, "RANK": rank, "LOCAL_RANK": rank}.items()}


def start(world: int, *command: str) -> list[subprocess.Popen[bytes]]:
    """Start a Python command in so many processes, as torchrun would."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *command], env=os.environ | variables(rank, world, port), stderr=subprocess.PIPE
        )
        for rank in range(world)
    ]


def finish(started: Sequence[subprocess.Popen[bytes]]) -> list[tuple[int, str]]:
    """Wait for workers: the exit status and the last line of each."""
    errors = [process.communicate(timeout=500)[1].decode() for process in started]
    last = [text.strip().splitlines()[-1:] for text in errors]
    return [(process.returncode, "".join(lines)) for process, lines in zip(started, last, strict=True)]


def written(recipe: Recipe, folder: Path, **settings: Any) -> Path:
    """The file of settings for a worker: those of `main`."""
    config, file = folder.with_suffix(".yaml"), folder.with_suffix(".json")
    write_recipe(config, recipe)
    file.write_text(json.dumps({"recipe": str(config), "folder": str(folder), **settings}))
    return file


def trained_together(world: int, recipe: Recipe, folder: Path, **settings: Any) -> list[tuple[int, str]]:
    """Train in several processes; `settings`: those of `main`."""
    return finish(start(world, "-m", "tests.training.worker", str(written(recipe, folder, **settings))))


def main(
    recipe: str,
    folder: str,
    *,
    resume: bool = False,
    double: bool = False,
    workers: int = 0,
    images: int = 100,
    log: str = "",
    die_at: tuple[int, int] = (-1, 0),
    slow: str = "",
) -> None:
    """Train.

    Args:
        recipe: The file.
        folder: Of the run.
        resume: Go on, where there is a run.
        double: In float64.
        workers: Loader processes, whatever this machine has.
        images: Of training, where they are digits.
        log: A file to which each process adds epoch, index, digest, batch and rank of each image that it trains on;
            with `slow` a file for each start, with its time in ns and the batches that the run had then in its name.
        die_at: The process that kills itself, or 9 for all, and in which batch of all that it prepares.
        slow: A file; while it is there, each batch takes a quarter of a second.
    """
    setting = read_recipe(Path(recipe))
    splits.cpus = lambda: workers
    data = open_data(setting.data, setting.train.seed)
    if setting.data.name == "digits":
        data = small(data, images, 43)
    data.train.workers = workers
    if double and setting.train.strategy == "ddp":
        run.PRECISION["fp32"] = "64-true"
    elif double:
        in_double_()
    with together("cpu"):
        resume = resume or gathered(is_continued(Path(folder)))[0]
        if slow:
            log = f"{log}.{gathered(time.time_ns())[0]}.{batches_kept(Path(folder), setting) if resume else 0}"
        watch(data, double=double, log=log, die_at=(die_at[0], die_at[1]), slow=Path(slow) if slow else None)
        run.train(setting, data, Path(folder), resume=resume, quiet=True)


def in_double_() -> None:
    """Train divided weights in float64, for which Lightning has no word."""
    divide, plugin = TrainingModule.configure_model, DoublePrecision()
    TrainingModule.configure_model = lambda self: divide(self.double())  # type: ignore[method-assign]
    for name in ("training_step", "validation_step"):
        step = getattr(TrainingModule, name)

        def wide(self: TrainingModule, *args: Any, step: Any = step) -> Any:
            with plugin.forward_context():
                return step(self, *args)

        setattr(TrainingModule, name, wide)


def watch(data: Data, *, double: bool, log: str, die_at: tuple[int, int], slow: Path | None = None) -> None:
    """Do what `main` says of float64, log, death and time in `prepare`."""
    rank, count = os.environ["RANK"], 0
    for split in (data.train, data.measured):
        prepare = split.prepare

        def watched(batch: Any, device: Any, split: Any = split, prepare: Any = prepare) -> Any:
            nonlocal count
            images, targets = prepare(batch, device)
            if split is data.train:
                count += 1
                if slow is not None and slow.exists():
                    time.sleep(0.25)
                if log:
                    own = batch.indices.tolist()[: len(images)]
                    lines = [f"{batch.epoch} {i} {digest(x)}" for i, x in zip(own, images, strict=True)]
                    with open(log, "a") as file:
                        file.writelines(f"{line} {count} {rank}\n" for line in lines)
                if die_at[1] == count and die_at[0] in (int(rank), 9):
                    os.kill(os.getpid(), signal.SIGKILL)
            if not double:
                return images, targets
            if isinstance(images, list):
                boxes = [target | {"boxes": target["boxes"].double()} for target in targets]
                return [image.double() for image in images], boxes
            return images.double(), targets.double() if targets.is_floating_point() else targets

        split.prepare = watched


def trained_on(log: Path, *, before: int | None = None) -> list[str]:
    """Epoch, index and digest of each image in a log, sorted; `before`: only of the first so many batches."""
    # A run that was killed after its last checkpoint trains on no more.
    lines = log.read_text().splitlines() if log.is_file() else []
    rows = [line.rsplit(" ", 2) for line in lines]
    return sorted(what for what, batch, _ in rows if before is None or int(batch) <= before)


def batches_kept(folder: Path, recipe: Recipe, images: int = 100) -> int:
    """How many batches of the run are in its last checkpoint."""
    epochs, rest = divmod(torch.load(folder / LAST, weights_only=True)["place"], images)
    size = recipe.data.batch_size
    return epochs * -(-images // size) + -(-rest // size)


def digest(image: torch.Tensor) -> str:
    return blake2b(image.contiguous().numpy().tobytes(), digest_size=8).hexdigest()


if __name__ == "__main__":
    try:
        main(**json.loads(Path(sys.argv[1]).read_text()))
    except SenetError as error:
        sys.exit(f"error: {error}")
