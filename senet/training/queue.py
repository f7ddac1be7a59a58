"""Many runs, one after the other or side by side; finished ones are kept and interrupted ones go on.

Side by side, each process keeps its share of the CPU's threads, or a GPU of its own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from senet.create import create_model
from senet.errors import SenetError
from senet.images import Data
from senet.recipes.files import RECIPE
from senet.recipes.recipe import DataRecipe, Recipe
from senet.training import folder as run
from senet.training.callbacks import Interrupted
from senet.training.run import train

OpenData = Callable[[DataRecipe, int], Data]
"""Opens the images for a recipe and a seed; side by side it must be a function of a module."""

Say = Callable[[str, str], None]
"""Told of each run that ends: its name, and "done" or what failed."""

_stop: Any = None


@dataclass
class Done:
    """What a queue came to: the summaries of finished runs, and the reasons of those that failed, by name."""

    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_all(
    runs: Mapping[str, Recipe],
    open_data: OpenData,
    folder: Path,
    *,
    jobs: int = 1,
    announce: Callable[[str, Recipe], None] | None = None,
    say: Say = lambda name, outcome: None,
    part_of: Path | None = None,
) -> Done:
    """Train each recipe in `folder / its name`.

    A run that fails, by a loss that is no number for example, is noted and the others go on; called again, it is tried
    again. The recipe of a folder that is there already must be this one.

    jobs: processes side by side.  announce: called before a run that this process trains itself.
    part_of: the folder to go on with after an interruption; by default `folder`.

    Raises Interrupted after a signal, when all that ran has been saved.
    """
    done, part_of = Done(), part_of or folder
    waiting: dict[str, Recipe] = {}
    for name, recipe in runs.items():
        summary = run.read_summary(folder / name)
        if summary is None:
            waiting[name] = recipe
        else:
            done.summaries[name] = summary
    if jobs > 1 and len(waiting) > 1:
        _side_by_side(waiting, open_data, folder, jobs, say, part_of, done)
        return done
    data, opened_for = None, None
    for name, recipe in waiting.items():
        if announce is not None:
            announce(name, recipe)
        try:
            if data is None or opened_for != (recipe.data, recipe.train.seed):
                data, opened_for = open_data(recipe.data, recipe.train.seed), (recipe.data, recipe.train.seed)
            begun = (folder / name / RECIPE).is_file()
            done.summaries[name] = train(recipe, data, folder / name, resume=begun, part_of=part_of).summary
            say(name, "done")
        except Interrupted:
            raise
        except SenetError as error:
            done.failed[name] = str(error)
            say(name, str(error))
    return done


def _side_by_side(
    waiting: dict[str, Recipe], open_data: OpenData, folder: Path, jobs: int, say: Say, part_of: Path, done: Done
) -> None:
    context = get_context("spawn")
    stop, places = context.Event(), context.SimpleQueue()
    gpus = torch.cuda.device_count()
    for i in range(jobs):
        places.put(i % gpus if gpus else -1)
    threads = 0 if gpus else max(1, torch.get_num_threads() // jobs)
    with (
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(stop, places, threads)) as pool,
        _forwarded(stop) as signals,
    ):
        futures: dict[Future[tuple[str, Any]], str] = {
            pool.submit(_one, recipe, open_data, folder / name, part_of): name for name, recipe in waiting.items()
        }
        for future in as_completed(futures):
            name = futures[future]
            value: Any
            try:
                outcome, value = future.result()
            except BrokenProcessPool:
                outcome, value = "failed", "its process was killed; is there enough memory for so many --jobs?"
            if outcome == "done":
                done.summaries[name] = value
            elif outcome == "failed":
                done.failed[name] = value
            say(name, "done" if outcome == "done" else value if outcome == "failed" else "interrupted, saved")
    if signals:
        raise Interrupted(signals[0], part_of)


@contextmanager
def _forwarded(stop: Any) -> Iterator[list[int]]:
    """Hand SIGINT and SIGTERM on to the processes that train, which save and end; gives the signals that came."""
    came: list[int] = []

    def on_signal(signum: int, frame: Any) -> None:
        came.append(signum)
        stop.set()
        for process in active_children():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _begin(stop: Any, places: Any, threads: int) -> None:
    """Prepare a process: its GPU or its threads; signals come from the first process alone."""
    global _stop
    _stop = stop
    place = places.get()
    if place >= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(place)
    if threads:
        torch.set_num_threads(threads)
    if hasattr(os, "setpgrp"):
        # A terminal's Ctrl-C would come twice.
        os.setpgrp()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


def _one(recipe: Recipe, open_data: OpenData, folder: Path, part_of: Path) -> tuple[str, Any]:
    """Train one run in this process: what became of it, and its summary or the reason."""
    if _stop.is_set():
        return "interrupted", ""
    try:
        data = open_data(recipe.data, recipe.train.seed)
        if _stop.is_set():
            return "interrupted", ""
        begun = (folder / RECIPE).is_file()
        with open(os.devnull, "w") as nowhere, _to(nowhere):
            result = train(recipe, data, folder, resume=begun, quiet=True, part_of=part_of)
        return "done", result.summary
    except Interrupted:
        return "interrupted", ""
    except SenetError as error:
        return "failed", str(error)


@contextmanager
def _to(file: Any) -> Iterator[None]:
    with redirect_stdout(file), redirect_stderr(file):
        yield


def seconds_per_image(recipe: Recipe, device: torch.device, threads: int = 0) -> tuple[float, float]:
    """What an image costs in training and in evaluation, in seconds: the median of a few batches of random ones.

    threads: of the CPU; 0 leaves them.
    """
    n = min(recipe.data.batch_size, 32 if device.type == "cpu" else 256)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _measure(recipe, device, n)
    finally:
        torch.set_num_threads(before)


def _measure(recipe: Recipe, device: torch.device, n: int) -> tuple[float, float]:
    t, d = recipe.train, recipe.data
    fused: Any = "auto" if t.fused == "auto" else t.fused == "yes"
    model = create_model(recipe.model, seed=0, device=device, fused=fused)
    layout = torch.channels_last if t.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(n, recipe.model.in_channels, d.image_size, d.image_size, device=device)
    x = x.contiguous(memory_format=layout)
    y = torch.zeros(n, dtype=torch.long, device=device)
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[t.precision]

    def step(training: bool) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        model.train(training)
        with torch.set_grad_enabled(training), torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        if training:
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    trained, evaluated = [step(True) for _ in range(4)], [step(False) for _ in range(3)]
    # The first of each warms up.
    return sorted(trained[1:])[1] / n, sorted(evaluated[1:])[0] / n
