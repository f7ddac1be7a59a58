"""One training run: from a recipe and a data set to a run folder with its result."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from senet.data import Data, Split
from senet.device import pick_device
from senet.errors import CheckpointError, ConfigError, MissingExtraError, RunError
from senet.files import held, new_folder
from senet.kernels import dispatch
from senet.models.describe import describe
from senet.recipes.recipe import Recipe
from senet.runs.checkpoint import KEY, read_ckpt
from senet.runs.environment import this_environment, write_environment
from senet.runs.folder import CURVES, LAST, RECIPE
from senet.runs.metrics import Epoch, write_metrics
from senet.runs.recipe_file import write_recipe
from senet.runs.summary import RunSummary, read_summary, write_summary
from senet.training.callbacks import AtomicIO, Keeper, Progress, fingerprint, say
from senet.training.module import Classifier
from senet.training.plots import plot_curves
from senet.weights.header import Header

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


class _Stateful(StatefulDataLoader[Any]):
    """A loader that resumes with the number of workers of its saved state, whatever this machine would choose."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        workers = state_dict.get("_snapshot", {}).get("_main_snapshot", {}).get("_num_workers")
        self.num_workers = workers or self.num_workers
        super().load_state_dict(state_dict)


def loader(split: Split, batch_size: int, device: torch.device, *, train: bool) -> DataLoader[Any]:
    """Batches of a split; the training loader saves its position and resumes from it."""
    kind = _Stateful if train else DataLoader
    # Workers start by fork where that is the platform's default, and end with each epoch.
    return kind(
        split,  # type: ignore[arg-type]
        sampler=split.order(batch_size),
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
        RunError: The folder cannot be used, or another process uses it.
        DataError: Images cannot be read.
        Interrupted: A signal came; the state is saved.
    """
    recipe = fitted(recipe, len(data.classes))
    device = device_of(recipe)
    _check_last_batch(recipe, len(data.train))
    if resume and not (folder / RECIPE).is_file():
        raise RunError(f"{folder}: not the folder of a run: it has no {RECIPE}")
    with held(folder), on_threads(recipe.train.threads), _plain_speech():
        _take_folder(folder, recipe, device, resume=resume)
        # A run that was killed before its first checkpoint starts again.
        start = folder / LAST if resume and (folder / LAST).is_file() else None
        if start is not None:
            _check_start(start, recipe, data)
        began = time.perf_counter()
        batches = loader(data.train, recipe.data.batch_size, device, train=True)
        val = loader(data.val, recipe.data.eval_batch_size, device, train=False)
        set_epoch = batches.sampler.set_epoch  # type: ignore[union-attr]
        keeper = Keeper(folder, set_epoch, part_of or folder, None if quiet else say, is_asked_to_stop)
        most = recipe.train.limit_batches or len(batches)
        module = Classifier(recipe, data, math.ceil(min(len(batches), most) / recipe.train.accumulate))
        trainer = _trainer(recipe, device, folder, [*([keeper] if quiet else [keeper, Progress()]), *callbacks])
        trainer.fit(module, batches, val, ckpt_path=start, weights_only=True)
        summary = summarise(recipe, data, keeper.history, time.perf_counter() - began)
        if skipped := list(summary.skipped_images):
            print(f"skipped {len(skipped)} unreadable image{'s' if len(skipped) > 1 else ''}, the first: {skipped[0]}")
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


def _check_last_batch(recipe: Recipe, images: int) -> None:
    """Raise ConfigError where the last batch is one image whose feature map is 1x1: batch norm cannot train on it."""
    is_point = recipe.model.stage_outputs[-1].stride >= recipe.data.image_size
    if is_point and images % recipe.data.batch_size == 1 and not recipe.train.limit_batches:
        raise ConfigError(
            f"data.batch_size: {recipe.data.batch_size} gives a last batch of one image of {images:,}, "
            "and batch norm cannot train on one image whose feature map is 1x1; choose another, or a larger image_size"
        )


def _check_start(start: Path, recipe: Recipe, data: Data) -> None:
    """Raise CheckpointError for a checkpoint of another network, RunError where the images have changed."""
    state = read_ckpt(start)
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


def summarise(recipe: Recipe, data: Data, history: Sequence[Epoch], seconds: float) -> RunSummary:
    """The result of a run from its epochs; `seconds`: what the process took."""
    cost = describe(recipe.model, recipe.data.image_size)
    last, best = history[-1], min(history, key=lambda epoch: epoch.test_top1_error)
    return RunSummary(
        model=recipe.name,
        data=data.name,
        seed=recipe.train.seed,
        epochs=len(history),
        train_images=len(data.train),
        test_images=last.test_images,
        skipped_images=(*data.train.skipped, *data.val.skipped),
        params=cost.params,
        macs=cost.macs,
        top1_error=last.test_top1_error,
        top5_error=last.test_top5_error,
        loss=last.test_loss,
        best_top1_error=best.test_top1_error,
        best_epoch=best.epoch,
        train_seconds=round(sum(epoch.seconds for epoch in history), 2),
        step_ms=sorted(epoch.step_ms for epoch in history)[len(history) // 2],
        wall_seconds=round(seconds, 2),
    )


def _tensorboard(folder: Path) -> Any:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise MissingExtraError("TensorBoard logs", "tensorboard") from None
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


def _trainer(recipe: Recipe, device: torch.device, folder: Path, callbacks: list[Any]) -> pl.Trainer:
    t = recipe.train
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=t.epochs,
        precision=PRECISION[t.precision],  # type: ignore[arg-type]
        accumulate_grad_batches=t.accumulate,
        gradient_clip_val=recipe.optim.clip_norm or None,
        limit_train_batches=t.limit_batches or None,
        limit_val_batches=t.limit_batches or None,
        callbacks=callbacks,
        plugins=[AtomicIO()],
        logger=_tensorboard(folder) if t.tensorboard else False,
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
            warnings.filterwarnings("ignore", message=".*set_vital.*", module=r"torchdata\..*")
            warnings.filterwarnings("ignore", module=r"lightning\..*", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
