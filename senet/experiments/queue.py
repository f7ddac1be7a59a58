"""Many runs, one after the other or side by side; finished ones are kept and interrupted ones are resumed.

Side by side, each process has its share of the CPU's threads, or a GPU of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from senet.data import Data, open_data
from senet.errors import SenetError
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.folder import RECIPE
from senet.runs.summary import RunSummary, read_summary
from senet.training.callbacks import Interrupted
from senet.training.run import train

OpenData = Callable[[DataRecipe, int], Data]
"""Opens the images for a recipe and a seed. Side by side it must be a function of a module, which pickle needs."""

Say = Callable[[str, str], None]
"""Called for each run that ends: with its name, and "done" or what failed."""

Announce = Callable[[str, Recipe], None]
"""Called before each run that this process trains: with its name and recipe."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FAILURES = (SenetError, torch.OutOfMemoryError)
"""Of one run, after which the others continue."""


def open_images(recipe: DataRecipe, seed: int) -> Data:
    """The images of a recipe, with a progress bar."""
    return open_data(recipe, seed, progress=True)


@dataclass
class Done:
    """What a queue did.

    Attributes:
        summaries: Of the finished runs, by name.
        failed: Name of a run -> why it failed.
    """

    summaries: dict[str, RunSummary] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_all(
    runs: Mapping[str, Recipe],
    folder: Path,
    *,
    open_data: OpenData = open_images,
    jobs: int = 1,
    announce: Announce | None = None,
    say: Say = lambda name, outcome: None,
    part_of: Path | None = None,
) -> Done:
    """Train each recipe in a folder of its own.

    A run that fails, for example with a loss of NaN, is noted and the others continue; called again, it is tried again.

    Args:
        runs: Name of a run, which its folder gets -> recipe. A folder that is there already must have this recipe.
        folder: Where the folders of the runs are.
        open_data: Opens the images.
        jobs: Processes side by side.
        announce: Called before each run that this process trains itself.
        say: Called after each run.
        part_of: The folder that messages name for `--resume`; by default `folder`.

    Raises:
        Interrupted: A signal came; all that ran is saved.
    """
    done, part_of = Done(), part_of or folder
    waiting: dict[str, Recipe] = {}
    for name, recipe in runs.items():
        summary = read_summary(folder / name)
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
        except _FAILURES as error:
            done.failed[name] = str(error)
            say(name, str(error))
    return done


def _side_by_side(
    waiting: dict[str, Recipe], open_data: OpenData, folder: Path, jobs: int, say: Say, part_of: Path, done: Done
) -> None:
    """Train each run in a process of its own, so that one that dies does not end the others."""
    context = get_context("spawn")
    stop = context.Event()
    free = gpus_for(min(jobs, len(waiting)), waiting.values())
    threads = max(1, torch.get_num_threads() // len(free))
    todo = list(waiting.items())
    running: dict[Any, tuple[str, str, Any]] = {}
    with _noted(stop) as signals:
        try:
            while running or (todo and not signals):
                while todo and free and not signals:
                    (name, recipe), gpu = todo.pop(0), free.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    work = (recipe, open_data, folder / name, part_of, stop, gpu, threads, sender)
                    process = context.Process(target=_one, args=work)
                    with _held():
                        process.start()
                    sender.close()
                    running[receiver] = name, gpu, process
                for receiver in wait(list(running)):
                    name, gpu, process = running.pop(receiver)
                    free.append(gpu)
                    say(name, _outcome(name, receiver, process, done))
        finally:
            for _, _, process in running.values():
                process.kill()
    if signals:
        raise Interrupted(signals[0], part_of)


def gpus_for(jobs: int, recipes: Iterable[Recipe]) -> list[str]:
    """The GPU of each process, by its name in CUDA_VISIBLE_DEVICES; "" for the CPU."""
    count = torch.cuda.device_count()
    if not count or all(r.train.device == "cpu" for r in recipes):
        return [""] * jobs
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(i) for i in range(count)]
    return [names[i % count] for i in range(jobs)]


def _outcome(name: str, receiver: Any, process: Any, done: Done) -> str:
    """Record what a process reports, or how it died; returns it in words."""
    value: Any
    try:
        outcome, value = receiver.recv()
    except EOFError:
        outcome, value = "failed", ""
    receiver.close()
    process.join()
    if outcome == "done":
        done.summaries[name] = value
    elif outcome == "failed":
        killed = "its process was killed; is there enough memory for so many --jobs?"
        ended = f"its process ended with status {process.exitcode}; see the messages above"
        done.failed[name] = value or (killed if process.exitcode < 0 else ended)
        return done.failed[name]
    return outcome


@contextmanager
def _noted(stop: Any) -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM and ask the processes to save and end; a second signal ends all at once."""
    came: list[int] = []

    def on_signal(signum: int, frame: Any) -> None:
        if came:
            raise SystemExit(128 + signum)
        came.append(signum)
        stop.set()
        print("\nstopping when the batches are done (once more: at once, without saving)", file=sys.stderr, flush=True)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {signum: signal.signal(signum, on_signal) for signum in _SIGNALS}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _held() -> Iterator[None]:
    """Block signals here, and in a process that is started inside until it ignores them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _one(
    recipe: Recipe, open_data: OpenData, folder: Path, part_of: Path, stop: Any, gpu: str, threads: int, pipe: Any
) -> None:
    """Train one run in this process; send the outcome, and its summary or the reason."""
    # A terminal sends Ctrl-C to all processes; the first one tells the others.
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    else:
        torch.set_num_threads(threads)
    pipe.send(_trained(recipe, open_data, folder, part_of, stop))


def _trained(recipe: Recipe, open_data: OpenData, folder: Path, part_of: Path, stop: Any) -> tuple[str, Any]:
    try:
        data = open_data(recipe.data, recipe.train.seed)
        if stop.is_set():
            return "stopped before it began", ""
        begun = (folder / RECIPE).is_file()
        with open(os.devnull, "w") as nowhere, _to(nowhere):
            result = train(
                recipe, data, folder, resume=begun, quiet=True, part_of=part_of, is_asked_to_stop=stop.is_set
            )
        return "done", result.summary
    except Interrupted:
        return "interrupted, saved", ""
    except _FAILURES as error:
        return "failed", str(error)


def _end_with_the_first() -> None:
    """End when the first process has ended: started again, it would train into the same folder."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


@contextmanager
def _to(file: Any) -> Iterator[None]:
    with redirect_stdout(file), redirect_stderr(file):
        yield
