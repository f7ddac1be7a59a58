"""One training run: from a recipe and a data set to a run folder with its result."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from senet.data import Data, Split, load_image, normalise
from senet.data.duplicates import duplicates
from senet.data.splits import Order
from senet.device import pick_device
from senet.errors import CheckpointError, ConfigError, DataError, RunError
from senet.files import held, new_folder, write_text
from senet.foreign_models import describe_network
from senet.kernels import dispatch
from senet.models.net import Net
from senet.models.other import OtherNet
from senet.processes import counted, merged, rank, share, wait, world
from senet.recipes.effects import check_labels
from senet.recipes.recipe import PARTS, Recipe
from senet.runs.checkpoint import KEY, load, read_ckpt
from senet.runs.environment import this_environment, write_environment
from senet.runs.evaluation import class_errors, remarks, unbalanced
from senet.runs.folder import BEST, CURVES, LAST, PREVIOUS, RECIPE, WEIGHTS
from senet.runs.metrics import Epoch, best_epoch, write_metrics
from senet.runs.recipe_file import read_recipe, write_recipe
from senet.runs.summary import RunSummary, read_summary, write_summary
from senet.training.callbacks import AtomicIO, Keeper, Progress, fingerprint, say
from senet.training.launch import Connected, check_one_process, local_world
from senet.training.loggers import logger_of
from senet.training.module import TrainingModule, fewest_images
from senet.training.plots import plot_curves
from senet.training.sharded import Divided
from senet.training.tasks import Measuring, task_of
from senet.training.weights import initial_network
from senet.weights.header import Header
from senet.weights.load import changes

GATE_IMAGES = 64
"""Training images over which the gates of units that are taken out are averaged."""

PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its summary (summary.json) and its epochs (metrics.csv)."""

    folder: Path
    summary: RunSummary
    history: list[Epoch]


def fitted(recipe: Recipe, classes: int) -> Recipe:
    """The recipe with its network fitted to the images: numbers of classes and channels, image size."""
    d = recipe.data
    model = replace(recipe.model, num_classes=classes, in_channels=d.channels, image_size=d.image_size)
    return replace(recipe, model=model)


def device_of(recipe: Recipe) -> torch.device:
    """The device of a recipe; ConfigError where this machine has none, or it does not support the precision."""
    device = pick_device(recipe.train.device, field="train.device")
    if device.type == "cpu" and recipe.train.precision == "fp16":
        raise ConfigError("train.precision: 'fp16' needs a GPU; on a CPU use 'bf16' or 'fp32'")
    return device


def loader(split: Split, batch_size: int, device: torch.device, *, limit: int = 0) -> DataLoader[Any]:
    """Batches of a split. Where only `limit` batches of it will be used, the classes take turns."""
    # Workers start by fork where that is the platform's default, and end with each epoch.
    return DataLoader(
        split,
        sampler=split.order(batch_size, in_turn=0 < limit < -(-len(split) // batch_size)),
        batch_size=None,
        num_workers=split.workers,
        pin_memory=device.type == "cuda" and split.workers > 0,
    )


def train(
    recipe: Recipe,
    data: Data,
    folder: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    part_of: Path | None = None,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train the recipe's network and leave a run folder (see `senet.runs.folder`).

    Args:
        recipe: What is trained, and how.
        data: The images of `recipe.data`.
        folder: New or empty, unless `resume`.
        resume: Continue the run in `folder` from its last.ckpt, bit for bit.
        quiet: Print no progress.
        callbacks: Lightning callbacks of your own; the run's own come first.
        part_of: The folder of the experiment that this run belongs to, which messages name for `--resume`.
        is_asked_to_stop: Called after each batch; true stops the run like SIGTERM.

    Raises:
        ConfigError: The recipe cannot run on this machine.
        RunError: The folder cannot be used, another process uses it, or a launcher started several processes.
        DataError: Images cannot be read.
        Interrupted: A signal came; the state is saved.
    """
    recipe = fitted(recipe, len(data.classes))
    check_labels(recipe)
    device = device_of(recipe)
    check_batches(recipe, len(data.train), world())
    if world() == 1:
        check_one_process()
    is_first = not rank()
    quiet = quiet or not is_first
    if isinstance(recipe.model, OtherNet):
        # A network that cannot be built fails before there is a folder.
        describe_network(recipe.model, recipe.data.image_size)
    check_chooser(recipe, data)
    if resume and not (folder / RECIPE).is_file():
        raise RunError(f"{folder}: not the folder of a run: it has no {RECIPE}")
    with held(folder) if is_first else nullcontext(), on_threads(recipe.train.threads), _plain_speech():
        if is_first:
            _take_folder(folder, recipe, device, resume=resume)
        wait()
        start = _start(folder, recipe, data) if resume else None
        if is_first and resume and read_recipe(folder) != recipe:
            # Its images are elsewhere now.
            write_recipe(folder / RECIPE, recipe)
        began = time.perf_counter()
        notes = duplicates(data)
        if not quiet:
            print("".join(f"{note}\n" for note in notes), end="", flush=True)
        limit = recipe.train.limit_batches
        batches = loader(data.train, recipe.data.batch_size, device, limit=limit)
        val = loader(data.measured, recipe.data.eval_batch_size, device, limit=limit)
        order: Order = batches.sampler  # type: ignore[assignment]
        said = None if quiet else say
        keeper = Keeper(folder, order, part_of or folder, said, is_asked_to_stop, recipe.task)
        steps = math.ceil(min(len(batches), limit or len(batches)) / recipe.train.accumulate)
        module = TrainingModule(recipe, data, steps, _initial(recipe, data, folder, quiet) if start is None else None)
        trainer = _trainer(recipe, device, folder, [*([keeper] if quiet else [keeper, Progress()]), *callbacks])
        trainer.fit(module, batches, val, ckpt_path=start, weights_only=True)
        wait()
        tested = None
        if data.val is not None and data.test is not None:
            tested = measure(load(folder / BEST).model, data, recipe, device)
        for split in filter(None, (data.train, data.val, data.test)):
            split.skipped[:] = merged(split.skipped)
        left_out = sum(counted(module.left_out))
        seconds = time.perf_counter() - began
        summary = summarise(recipe, data, keeper.history, keeper.by_class, seconds, tested=tested, notes=notes)
        if not is_first:
            return Trained(folder, summary, keeper.history)
        if skipped := list(summary.skipped_images):
            print(f"skipped {len(skipped)} unreadable image{'s' if len(skipped) > 1 else ''}, the first: {skipped[0]}")
        if left_out:
            print(f"left out {left_out} batches of one readable image, on which batch norm cannot train")
        # Again, for a run that was killed after its last checkpoint.
        write_metrics(folder, keeper.history)
        plot_curves(folder / CURVES, {recipe.name: [keeper.history]})
        write_summary(folder, summary)
    return Trained(folder, summary, keeper.history)


def _take_folder(folder: Path, recipe: Recipe, device: torch.device, *, resume: bool) -> None:
    """Begin the folder of a new run, or check that the run in it can be resumed."""
    if not resume:
        new_folder(folder)
        write_recipe(folder / RECIPE, recipe)
        t = recipe.train
        used = dispatch.block_epilogue(device, DTYPES[t.precision]) if t.fused else "layers"
        write_environment(folder, this_environment(device, t.threads, used))
    elif read_summary(folder) is not None:
        raise RunError(f"{folder}: this run is finished; evaluate it with: senet evaluate {folder}")


def _initial(recipe: Recipe, data: Data, folder: Path, quiet: bool) -> nn.Module:
    """The network at the start; what became of its weights is printed and kept."""
    images = None
    if recipe.train.weights and isinstance(recipe.model, OtherNet) and recipe.model.own_units == "mean":
        # Of the training images, spread over the classes, without augmentation.
        some = torch.linspace(0, len(data.train) - 1, min(GATE_IMAGES, len(data.train)), device="cpu").long()
        images = torch.stack([load_image(data.train.whole(i), recipe.data) for i in some.tolist()])
        images = normalise(images, recipe.data)
    network, report = initial_network(recipe, images)
    net = getattr(network, "net", recipe.model)
    if isinstance(net, Net) and net != recipe.model:
        what = ", ".join(changes(recipe.model, net))
        raise ConfigError(
            f"train.weights: belong to another network ({what}); take the recipe that "
            "senet.training.weights.with_weights returns"
        )
    if report is not None and not rank():
        write_text(folder / WEIGHTS, f"{report}\n\n{report.table()}\n")
        if not quiet:
            print(report)
    return network


def check_batches(recipe: Recipe, images: int, processes: int = 1) -> None:
    """Raise ConfigError where a training batch will have one image, and batch norm cannot train on that.

    Args:
        recipe: Fitted to its images.
        images: Number of training images.
        processes: How many share a batch.
    """
    batch, limit = recipe.data.batch_size, recipe.train.limit_batches
    drawn = min(images, limit * batch) if limit else images
    last = drawn % batch or batch
    shared = 1 if recipe.train.sync_batch_norm else processes
    parts = {range(n)[share(n, k, shared)] for n in {last, min(batch, drawn)} for k in range(shared)}
    if any(len(part) == 1 for part in parts) and fewest_images(recipe) > 1:
        what = "a batch of one image" if processes == 1 else f"one of {processes} processes a batch of one image"
        more = "" if processes == 1 else ", fewer --devices, --sync-batch-norm,"
        raise ConfigError(
            f"data.batch_size: {batch} of {images:,} training images gives {what}, and this network's "
            f"batch norm cannot train on one image, whose feature map is 1x1; choose another{more} or a larger "
            "data.image_size"
        )


def _start(folder: Path, recipe: Recipe, data: Data) -> Path | None:
    """The checkpoint that a resumed run continues from; None for one that was killed before its first.

    Raises:
        CheckpointError: It is of another network; or it is damaged, and so is the one before, if there is one.
        RunError: The images have changed.
    """
    found = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    for path in found:
        try:
            state = read_ckpt(path)
        except CheckpointError as error:
            if path == found[-1]:
                raise
            print(f"{error}; going on from {found[-1].name}, the one before", flush=True)
            continue
        _check_start(path, state, recipe, data)
        return path
    return None


def _check_start(start: Path, state: Mapping[str, Any], recipe: Recipe, data: Data) -> None:
    """Raise CheckpointError for a checkpoint of another network, RunError where the images have changed."""
    about = Header.loads(state[KEY], start)
    if about.model != recipe.model:
        raise CheckpointError(f"{start}: is of another network, {about.name}; the run's recipe is of {recipe.name}")
    if state.get("images") != fingerprint(data):
        raise RunError(f"{start}: the images are not those that the run began with: {data.source}")


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Compute with this number of CPU threads inside; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def measure(model: nn.Module, data: Data, recipe: Recipe, device: torch.device) -> Measuring:
    """Measure on the test images in evaluation mode."""
    split = data.test
    assert split is not None
    task = task_of(recipe, replace(data, val=None))
    tally = task.tally()
    model = model.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    limit = recipe.train.limit_batches
    for batch in islice(loader(split, recipe.data.eval_batch_size, device, limit=limit), limit or None):
        images, targets = split.prepare(batch, device)
        if len(targets):
            tally.add(task.answer(model, images), targets)
    tally.gather_()
    if not tally.count:
        raise DataError("none of the test images can be read")
    return tally


def summarise(
    recipe: Recipe,
    data: Data,
    history: Sequence[Epoch],
    by_class: Sequence[tuple[int, int, int]],
    seconds: float,
    *,
    tested: Measuring | None = None,
    notes: Sequence[str] = (),
) -> RunSummary:
    """The result of a run.

    Args:
        recipe: What was trained.
        data: The images.
        history: The epochs.
        by_class: Counts of the last epoch's evaluation, from `Tally.read_classes`.
        seconds: What the process took.
        tested: The figures on the test images, where other images chose the epoch.
        notes: Lines about the images.
    """
    cost = describe_network(recipe.model, recipe.data.image_size)
    last = history[-1]
    task = recipe.task
    best = best_epoch(history, task) if last.part == "val" else None
    measured: dict[str, float | None] = {"images": last.eval_images, **last.measured}
    part, epoch = last.part, last.epoch
    if tested is not None and best is not None:
        part, epoch, measured, by_class = "test", best.epoch, tested.read(), tested.read_classes()
    eval_images = int(measured.pop("images") or 0)
    counts = data.train.counts(len(data.classes))
    class_images = dict(zip(data.classes, counts, strict=True))
    steps = [epoch.step_ms for epoch in history[len(history) > 2 :]]
    used = [data.train, data.measured, *([data.test] if tested is not None and data.test is not None else [])]
    return RunSummary(
        task=task.name,
        model=recipe.name,
        data=data.name,
        seed=recipe.train.seed,
        epochs=len(history),
        train_images=last.train_images,
        class_images=class_images,
        part=part,
        epoch=epoch,
        eval_images=eval_images,
        skipped_images=tuple(line for split in used for line in split.skipped),
        params=cost.params,
        macs=cost.macs,
        measured=measured,
        best=best.measured[task.main] if best else None,
        best_epoch=best.epoch if best else None,
        train_seconds=round(sum(epoch.seconds for epoch in history), 2),
        step_ms=sorted(epoch.step_ms for epoch in history)[len(history) // 2],
        # The first epoch warms up.
        step_spread_ms=round((max(steps) - min(steps)) / 2, 3),
        wall_seconds=round(seconds, 2),
        notes=(
            *_trial(recipe, last, data),
            *notes,
            *(unbalanced(class_images) if task.name == "classification" else ()),
            *(remarks(class_errors(data.classes, by_class), part) if by_class else ()),
        ),
    )


def _trial(recipe: Recipe, last: Epoch, data: Data) -> list[str]:
    """What a limited run used, as lines."""
    if not recipe.train.limit_batches:
        return []
    evaluated = data.measured
    return [
        f"a trial with limit_batches={recipe.train.limit_batches}: {last.train_images:,} of {len(data.train):,} "
        f"training and {last.eval_images:,} of {len(evaluated):,} {PARTS[last.part]} images in an epoch"
    ]


def check_chooser(recipe: Recipe, data: Data) -> None:
    """Raise ConfigError where test images would choose the learning rate or the number of epochs."""
    if data.val is not None:
        return
    early = recipe.train.early_stopping
    for field, is_used, instead in (
        ("schedule.kind: 'plateau'", recipe.schedule.kind == "plateau", "choose another kind"),
        (f"train.early_stopping: {early}", early > 0, "choose 0"),
    ):
        if is_used:
            raise ConfigError(
                f"{field} needs validation images, and {data.name} has none; hold some out with data.val_fraction, or "
                f"{instead}"
            )


def _strategy(recipe: Recipe) -> Any:
    """How several processes train: each has the whole network, or a part of each weight."""
    if world() == 1:
        return "auto"
    if recipe.train.strategy == "fsdp":
        return Divided()
    # Else torch regroups the gradients after the first step, also that of a resumed run, and with their places in a
    # group the last bits of their sums would change. It is also what frozen layers need.
    return DDPStrategy(find_unused_parameters=True)


def _trainer(recipe: Recipe, device: torch.device, folder: Path, callbacks: list[Any]) -> pl.Trainer:
    t = recipe.train
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=local_world(),
        num_nodes=world() // local_world(),
        strategy=_strategy(recipe),
        max_epochs=t.epochs,
        precision=PRECISION[t.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=t.accumulate,
        gradient_clip_val=recipe.optim.clip_norm or None,
        limit_train_batches=t.limit_batches or None,
        limit_val_batches=t.limit_batches or None,
        callbacks=callbacks,
        plugins=[AtomicIO(), Connected()],
        logger=logger_of(recipe, folder) if not rank() else False,
        default_root_dir=folder,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        benchmark=True,
    )


@contextmanager
def _plain_speech() -> Iterator[None]:
    """Without the libraries' advertisements, their advice on what we choose ourselves, and their deprecated calls."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A run that began on a machine of more processors keeps its workers.
            warnings.filterwarnings("ignore", message=".*worker processes in total.*")
            warnings.filterwarnings("ignore", message=".*training_step. returned .None.*")
            # The order of the images continues from the checkpoint's place; Lightning looks for a loader that would.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            # On a machine that has SLURM, runs need not be its jobs.
            warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
            # The frozen batch norms of a detector.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified.*")
            warnings.filterwarnings("ignore", module=r"lightning\..*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
