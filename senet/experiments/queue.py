"""Many runs, one after the other or side by side; finished ones are kept and interrupted ones are resumed.

Side by side, each run has a process of its own, or several; a process has its share of the CPU's threads, or a GPU.
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
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from senet.data import Data, open_data
from senet.errors import SenetError
from senet.processes import NO_JOB, counted, first_alone, rank
from senet.recipes.recipe import DataRecipe, Recipe
from senet.runs.folder import RECIPE
from senet.runs.summary import RunSummary, read_summary
from senet.training.callbacks import Interrupted
from senet.training.devices import SAVING_S, lost, together
from senet.training.run import train

OpenData = Callable[[DataRecipe, int], Data]
"""Opens the images for a recipe and a seed. For other processes it must be a function of a module, as pickle needs."""

Say = Callable[[str, str], None]
"""Called for each run that ends: with its name, and "done" or what failed."""

Announce = Callable[[str, Recipe], None]
"""Called before each run, where they are trained one after the other: with its name and recipe."""

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
    devices: int = 1,
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
        jobs: Runs side by side.
        devices: Processes that train each run together.
        announce: Called before each run, where they are trained one after the other.
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
    if waiting and (devices > 1 or (jobs > 1 and len(waiting) > 1)):
        _side_by_side(waiting, open_data, folder, jobs, devices, announce, say, part_of, done)
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


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a process is told about the run that it trains, alone or with others."""

    recipe: Recipe
    open_data: OpenData
    folder: Path
    part_of: Path
    stop: Any
    gpus: str
    threads: int
    devices: int
    speaks: bool
    to_errors: bool


def _side_by_side(
    waiting: dict[str, Recipe],
    open_data: OpenData,
    folder: Path,
    jobs: int,
    devices: int,
    announce: Announce | None,
    say: Say,
    part_of: Path,
    done: Done,
) -> None:
    """Train each run in processes of its own, so that one that dies does not end the others."""
    context = get_context("spawn")
    stop = context.Event()
    free = gpus_for(min(jobs, len(waiting)), waiting.values(), devices)
    threads = max(1, torch.get_num_threads() // (len(free) * devices))
    # Lines of several runs at a time would be mixed.
    speaks = len(free) == 1
    # As `launch` does.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    todo = list(waiting.items())
    running: dict[Any, tuple[str, str, Any]] = {}
    with _noted(stop) as signals:
        try:
            while running or (todo and not signals):
                while todo and free and not signals:
                    (name, recipe), gpus = todo.pop(0), free.pop(0)
                    if speaks and announce is not None:
                        announce(name, recipe)
                    work = _Work(
                        recipe=recipe,
                        open_data=open_data,
                        folder=folder / name,
                        part_of=part_of,
                        stop=stop,
                        gpus=gpus,
                        threads=threads,
                        devices=devices,
                        speaks=speaks,
                        to_errors=sys.stdout is sys.stderr,
                    )
                    receiver, process = _started(_first, work)
                    running[receiver] = name, gpus, process
                for receiver in wait(list(running)):
                    name, gpus, process = running.pop(receiver)
                    free.append(gpus)
                    say(name, _outcome(name, receiver, process, done))
        finally:
            for _, _, process in running.values():
                process.kill()
    if signals:
        raise Interrupted(signals[0], part_of)


def gpus_for(jobs: int, recipes: Iterable[Recipe], devices: int = 1) -> list[str]:
    """The GPUs of each run, as many as it has processes, as CUDA_VISIBLE_DEVICES names them; "" for the CPU."""
    count = torch.cuda.device_count()
    if not count or all(r.train.device == "cpu" for r in recipes):
        return [""] * jobs
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen else [str(i) for i in range(count)]
    return [",".join(names[(i * devices + k) % count] for k in range(devices)) for i in range(jobs)]


def _started(target: Callable[..., None], *args: Any) -> tuple[Any, Any]:
    """Start a process that ignores signals; returns what its outcome is received from, and the process."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, sender))
    with _held():
        process.start()
    sender.close()
    return receiver, process


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
        done.failed[name] = value or _death(process)
        return done.failed[name]
    return outcome


def _death(process: Any) -> str:
    """Why a process ended that reported nothing."""
    if process.exitcode < 0:
        return "its process was killed; is there enough memory for so many --jobs?"
    return f"its process ended with status {process.exitcode}; see the messages above"


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


def _first(work: _Work, pipe: Any) -> None:
    """Train one run in this process, and in others that it starts; send the outcome, and its summary or the reason."""
    _begin(work)
    if work.devices == 1:
        pipe.send(_trained(work))
        return
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    others = [_started(_other, work, number, store.port) for number in range(1, work.devices)]
    try:
        outcome, value = _trained_together(work, 0, store.port)
        if outcome == "lost":
            outcome, value = "failed", next(filter(None, map(_reason, others)), value)
        for _, process in others:
            process.join(SAVING_S)
        pipe.send((outcome, value))
    finally:
        for _, process in others:
            process.kill()


def _other(work: _Work, number: int, port: int, pipe: Any) -> None:
    """Train the run of the first process with it; send the outcome, and why it failed."""
    _begin(work)
    outcome, value = _trained_together(work, number, port)
    pipe.send((outcome, value if outcome == "failed" else ""))


def _reason(other: tuple[Any, Any]) -> str:
    """Why one of the other processes failed; "" for one that only lost another."""
    receiver, process = other
    try:
        return receiver.recv()[1] if receiver.poll(SAVING_S) else ""
    except EOFError:
        process.join()
        return _death(process)


def _begin(work: _Work) -> None:
    """Ignore signals, end with the process that started this one, and take the run's devices."""
    # A terminal sends Ctrl-C to all processes; the first one tells the others.
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    if work.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = work.gpus
    else:
        torch.set_num_threads(work.threads)


def _trained_together(work: _Work, number: int, port: int) -> tuple[str, Any]:
    """Train with the other processes of the run, which meet at a port of this machine."""
    found = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": work.devices, "LOCAL_WORLD_SIZE": work.devices}
    found |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": NO_JOB}
    # The first process has opened the store already.
    found |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    os.environ.update({name: str(value) for name, value in found.items()})
    with together(work.recipe.train.device):
        return _trained(work)


def _trained(work: _Work) -> tuple[str, Any]:
    try:
        with first_alone():
            data = work.open_data(work.recipe.data, work.recipe.train.seed)
        if any(counted(work.stop.is_set())):
            return "stopped before it began", ""
        begun = bool(counted((work.folder / RECIPE).is_file())[0])
        with _quiet(work):
            result = train(
                work.recipe,
                data,
                work.folder,
                resume=begun,
                quiet=not work.speaks,
                part_of=work.part_of,
                is_asked_to_stop=work.stop.is_set,
            )
        return "done", result.summary
    except Interrupted:
        return "interrupted, saved", ""
    except _FAILURES as error:
        return "failed", str(error)
    except Exception as error:
        if (ended := lost(error)) is None:
            raise
        return "lost", str(ended)


def _end_with_the_first() -> None:
    """End when the first process has ended: started again, it would train into the same folder."""
    first = parent_process()
    assert first is not None
    first.join()
    os._exit(1)


@contextmanager
def _quiet(work: _Work) -> Iterator[None]:
    """Print nothing, or what one run at a time prints."""
    if work.speaks:
        with redirect_stdout(sys.stderr if work.to_errors and not rank() else sys.stdout):
            yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
