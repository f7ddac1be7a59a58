"""Around the training loop: checkpoints, metrics, signals, progress."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from senet.data import Data, FileSplit, Split, TensorSplit
from senet.data.splits import Order
from senet.errors import DataError, RunError, SenetError
from senet.files import write_text
from senet.processes import counted, merged, rank, world
from senet.progress import Bar, span
from senet.recipes.recipe import PARTS
from senet.recipes.task import CLASSIFICATION, DETECTION, Task
from senet.runs.checkpoint import KEY, header, kept_weights, read_ckpt, save, write_ckpt
from senet.runs.folder import BEST, CURVES, FINAL, LAST, NAN
from senet.runs.metrics import Epoch, write_metrics
from senet.training.module import TrainingModule
from senet.training.plots import plot_curves
from senet.weights.header import Header


class Interrupted(SenetError):
    """A signal stopped the run after its state was saved.

    Attributes:
        signum: Which signal.
        folder: The one to resume.
    """

    def __init__(self, signum: int, folder: Path) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(f"stopped by {name}; saved in {folder}")
        self.signum, self.folder = signum, folder


def fingerprint(data: Data) -> str:
    """A digest by which a resumed run recognises its images, wherever they are now.

    Of the classes, of every image's class, and of the images: their pixels where they are in memory, else their names.
    """
    digest = blake2b(os.fsencode("\0".join(data.classes)), digest_size=16)
    for split in (data.train, data.val, data.test):
        if split is None:
            continue
        digest.update(b"|" + split.label_bytes())
        if isinstance(split, FileSplit):
            digest.update(os.fsencode("\0".join(map(os.path.basename, split.files))))
        elif isinstance(split, TensorSplit):
            digest.update(split.images.permute(0, 2, 3, 1).numpy().tobytes())
    return digest.hexdigest()


class AtomicIO(CheckpointIO):
    """How Lightning writes and reads checkpoints: atomically, and without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside the one before. RunError where that fails."""
        write_ckpt(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint with weights only, whatever Lightning asks for."""
        return read_ckpt(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Signals:
    """SIGINT and SIGTERM while training: the first is noted, the second stops at once.

    Args:
        resumable: The folder that messages name for `--resume`.
        is_asked: Whether another process asks to stop; that counts as SIGTERM.
    """

    def __init__(self, resumable: Path, is_asked: Callable[[], bool] = lambda: False) -> None:
        self.resumable, self.is_asked = resumable, is_asked
        self.signum = 0
        self.pid = os.getpid()
        self.before: dict[int, Any] = {}

    def take(self) -> None:
        """Install the handlers, except for signals that are ignored; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self.before[signum] = signal.signal(signum, self.on_signal)

    def came(self) -> int:
        """The signal to stop for, 0 for none; every process must ask, and all get the same answer."""
        if not self.signum and self.is_asked():
            self.signum = signal.SIGTERM
        self.signum = max(counted(self.signum))
        return self.signum

    def release(self) -> None:
        """Restore the handlers of before."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def on_signal(self, signum: int, frame: Any) -> None:
        """Note the signal; exit with 128 plus its number where one was noted before."""
        if os.getpid() != self.pid or (self.signum and world() > 1):
            # A worker process: a terminal sends Ctrl-C to it too, and it ends with the run. To one of several processes
            # a scheduler sends a signal, and torchrun the same again.
            return
        if self.signum:
            resume = f"--resume {shlex.quote(str(self.resumable))}"
            print(f"\nstopped at once; {resume} continues from the last checkpoint", file=sys.stderr)
            # Not KeyboardInterrupt, which Lightning turns into an exit of its own.
            raise SystemExit(128 + signum)
        self.signum = signum
        if rank():
            return
        print(
            "\nstopping when the batch, or the evaluation, is done (once more: at once, without saving)",
            file=sys.stderr,
            flush=True,
        )


class Keeper(Checkpoint):
    """Measures each epoch, writes metrics.csv, last.ckpt and the weights to keep, and stops for signals.

    The weights of the best epoch on the validation images are kept as best.safetensors. Test images choose nothing:
    without validation images the weights of the last epoch are kept, as last.safetensors.

    Lightning runs a `Checkpoint` callback after all others, so the saved state includes theirs.

    Args:
        folder: The run's.
        order: Of the training images; a resumed run continues in it.
        resumable: The folder that messages name for `--resume`: the run's, or that of its experiment.
        say: Called with each epoch, the number of epochs, and whether it is the best so far.
        is_asked: Whether another process asks to stop.
        task: Says which figure is the best.
    """

    def __init__(
        self,
        folder: Path,
        order: Order,
        resumable: Path,
        say: Callable[[Epoch, int, bool], None] | None = None,
        is_asked: Callable[[], bool] = lambda: False,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.folder, self.order, self.say, self.task = folder, order, say, task
        self.history: list[Epoch] = []
        self.by_class: list[tuple[int, int, int]] = []
        self.seconds = self.waited = 0.0
        self.clock = self.tick = 0.0
        self.lr = 0.0
        self.plateau_state: dict[str, object] | None = None
        self.lr_factor = 1.0
        self.step_ms: list[float] = []
        self.due = False
        self.images = ""
        self.signals = Signals(resumable, is_asked)

    def state_dict(self) -> dict[str, Any]:
        """The finished epochs, the last one's errors by class, and the clock of an unfinished one."""
        return {
            "history": [asdict(e) for e in self.history],
            "by_class": self.by_class,
            "seconds": self.seconds,
            "waited": self.waited,
            "step_ms": self.step_ms,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        history = [values | {"data_seconds": tuple(values["data_seconds"])} for values in state_dict["history"]]
        self.history = [Epoch(**values) for values in history]
        self.by_class = state_dict["by_class"]
        self.seconds, self.waited, self.step_ms = (state_dict[name] for name in ("seconds", "waited", "step_ms"))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the recipe, and the sums of an unfinished epoch."""
        assert isinstance(pl_module, TrainingModule)
        measured = self.history[-1].row() if self.history else {}
        checkpoint[KEY] = header(pl_module.recipe, pl_module.images.classes, measured, pl_module.images.digest)
        checkpoint["sums"] = pl_module.sums()
        self.images = self.images or fingerprint(pl_module.images)
        checkpoint["images"] = self.images
        checkpoint["skipped"] = {part: merged(split.skipped) for part, split in self.parts(pl_module)}
        checkpoint["place"] = self.place(trainer.fit_loop)
        checkpoint["plateau"] = pl_module.plateau.state_dict() if pl_module.plateau else None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore what `on_save_checkpoint` added; the plateau waits for the optimiser."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.load_sums(checkpoint["sums"])
        # Here, since Lightning fetches before it says which epoch it is.
        self.order.go_to(checkpoint["place"])
        self.plateau_state = checkpoint["plateau"]
        before = Header.loads(checkpoint[KEY], LAST).recipe or {}
        self.lr_factor = pl_module.recipe.optim.lr / before["optim"]["lr"]
        for part, split in self.parts(pl_module):
            split.skipped.extend(line for line in checkpoint["skipped"][part] if line not in split.skipped)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers; write a first checkpoint, so that a run can be resumed from its first step."""
        assert isinstance(pl_module, TrainingModule)
        self.signals.take()
        # A run resumed in mid-epoch does not pass that epoch's start.
        self.clock = self.tick = time.perf_counter()
        if trainer.ckpt_path is None:
            self.keep(trainer)
        if self.lr_factor != 1:
            self.change_rate(trainer)
        # A run that was killed after its last epoch has nothing to train.
        trainer.should_stop = self.is_stale(pl_module.recipe.train.early_stopping)
        if pl_module.plateau is not None and self.plateau_state is not None:
            pl_module.plateau.load_state_dict(self.plateau_state)

    def change_rate(self, trainer: pl.Trainer) -> None:
        """Go on with another learning rate than the checkpoint's."""
        scheduler: Any = trainer.lr_scheduler_configs[0].scheduler
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= self.lr_factor
            group["initial_lr"] *= self.lr_factor
        scheduler.base_lrs = [lr * self.lr_factor for lr in scheduler.base_lrs]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the signal handlers."""
        self.signals.release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self.signals.release()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.clock = self.tick = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Note the learning rate of the step, and how long its images took to come."""
        self.waited += time.perf_counter() - self.tick
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Stop at a loss of NaN or infinity, before it reaches the weights.

        Raises:
            RunError: It names the batch, its images, and how to go on.
        """
        assert isinstance(pl_module, TrainingModule)
        value = float(loss.detach())
        if not any(counted(not math.isfinite(value))):
            return
        names = merged(pl_module.names)
        if not rank():
            write_text(self.folder / NAN, "".join(f"{name}\n" for name in names))
        how = ""
        # The runs of an experiment keep its rate and its batches.
        if self.signals.resumable == self.folder:
            recipe, again = self.recipe(pl_module), f"senet train --resume {shlex.quote(str(self.folder))}"
            left_out = ",".join(map(str, (*recipe.train.skip_batches, pl_module.number)))
            how = f"; at a lower rate: {again} --lr {recipe.optim.lr / 10:g}; without it: --skip-batches {left_out}"
        raise RunError(
            f"epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.batch_idx + 1}: the training loss is "
            f"{value}; try a lower optim.lr. Its {len(names)} images are in {self.folder / NAN}, the first is "
            f"{names[0] if names else 'none'}. {self.folder / LAST} is from before{how}"
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Time the step; save and stop when asked to."""
        now = time.perf_counter()
        self.step_ms.append(1000 * (now - self.tick))
        self.tick = now
        batch_idx: int = args[2]
        if batch_idx + 1 >= trainer.num_training_batches:
            # The epoch ends next, and saves and stops itself.
            self.seconds += now - self.clock
            return
        t = self.recipe(pl_module).train
        self.due = self.due or (t.save_batches > 0 and (batch_idx + 1) % t.save_batches == 0)
        # No checkpoint holds the gradients of an unfinished accumulated step.
        if (self.signals.came() or self.due) and (batch_idx + 1) % t.accumulate == 0:
            self.due = False
            self.seconds += now - self.clock
            self.clock = now
            self.keep(trainer)
            self.stop_if_asked()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the epoch, keep its weights, stop when asked to."""
        assert isinstance(pl_module, TrainingModule)
        self.by_class = pl_module.val_tally.read_classes()
        (train, train_images), (measured, eval_images) = pl_module.read_train(), pl_module.read_val()
        if not train_images and sum(counted(pl_module.left_out)):
            raise DataError("no batch has two images that can be read; choose a larger data.batch_size")
        part = pl_module.images.measured_part
        self.check("training", train["loss"], train_images, trainer.current_epoch + 1)
        self.check(PARTS[part], measured.get("loss", 0.0), eval_images, trainer.current_epoch + 1)
        if pl_module.plateau is not None:
            pl_module.plateau.step(self.to_lower(measured))
        epoch = Epoch(
            epoch=trainer.current_epoch + 1,
            part=part,
            step=trainer.global_step,
            lr=self.lr,
            train=train,
            train_images=train_images,
            measured=measured,
            eval_images=eval_images,
            seconds=round(self.seconds, 3),
            step_ms=round(sorted(self.step_ms)[len(self.step_ms) // 2], 3),
            data_seconds=tuple(ms / 1000 for ms in counted(round(1000 * self.waited))),
        )
        self.seconds, self.waited, self.step_ms, self.due = 0.0, 0.0, [], False
        figure = measured[self.task.main]
        is_best = part == "val" and all(self.task.is_better(figure, than) for than in self.figures)
        # Also where no figure could be measured yet.
        is_best = is_best or (part == "val" and not self.history)
        self.history.append(epoch)
        # The weights first: killed between the two, the resumed run reaches the same epoch again.
        if is_best or part == "test":
            self.keep_weights(trainer, self.folder / (BEST if is_best else FINAL))
        self.keep(trainer)
        if not rank():
            write_metrics(self.folder, self.history)
        if trainer.logger is not None:
            values = {n: v for n, v in epoch.row().items() if v is not None and n not in ("epoch", "part", "step")}
            values["data_seconds"] = max(epoch.data_seconds)
            trainer.logger.log_metrics(values, step=epoch.step)  # type: ignore[arg-type]
        t = self.recipe(pl_module).train
        if self.say is not None:
            self.say(epoch, t.epochs, is_best)
        self.stop_if_asked()
        if self.is_stale(t.early_stopping):
            trainer.should_stop = True
            if self.say is not None and len(self.history) < t.epochs:
                plural = "s" if t.early_stopping > 1 else ""
                moved = "risen" if self.task.higher else "fallen"
                print(
                    f"stopped early: the validation {self.task.word} has not {moved} for {t.early_stopping} "
                    f"epoch{plural}",
                    flush=True,
                )

    @property
    def figures(self) -> list[float | None]:
        """The figure of each epoch that chooses the best one."""
        return [epoch.measured[self.task.main] for epoch in self.history]

    def to_lower(self, measured: Mapping[str, float | None]) -> float:
        """What a plateau of the schedule watches, which falls while it gets better."""
        return measured["loss"] if "loss" in measured else -(measured[self.task.main] or 0.0)  # type: ignore[return-value]

    def is_stale(self, patience: int) -> bool:
        """Whether the best figure is `patience` epochs old; never for 0."""
        if not patience or len(self.figures) <= patience:
            return False
        before, since = (self.task.best(part) for part in (self.figures[:-patience], self.figures[-patience:]))
        return not self.task.is_better(since, before)

    def check(self, word: str, loss: float | None, images: int, epoch: int) -> None:
        """Raise RunError for a loss of NaN or infinity, before it is saved; DataError where no image could be read."""
        if not images:
            raise DataError(f"none of the {word} images can be read")
        if loss is not None and not math.isfinite(loss):
            raise RunError(
                f"epoch {epoch}: the {word} loss is {loss}; try a lower optim.lr. "
                f"{self.folder / LAST} is of the epoch before"
            )

    def place(self, loop: Any) -> int:
        """How many images of the run came before what Lightning's loop trains on next."""
        epochs = loop.epoch_progress.current
        is_between = epochs.processed == epochs.started
        return self.order.place(epochs.processed, 0 if is_between else loop.epoch_loop.batch_progress.current.ready)

    def keep(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt."""
        trainer.save_checkpoint(self.folder / LAST)

    def keep_weights(self, trainer: pl.Trainer, path: Path) -> None:
        """Write the weights with the errors of the epoch; every process must call it, since each may have a part."""
        state = trainer.strategy.lightning_module_state_dict()
        if rank():
            return
        module = trainer.lightning_module
        assert isinstance(module, TrainingModule)
        save(
            path,
            kept_weights(state),
            recipe=module.recipe,
            classes=module.images.classes,
            measurements=self.history[-1].row(),
            images=module.images.digest,
        )

    def stop_if_asked(self) -> None:
        """Raise Interrupted after a signal."""
        if signum := self.signals.came():
            if self.history and not rank():
                plot_curves(self.folder / CURVES, {self.folder.name: [self.history]})
            raise Interrupted(signum, self.signals.resumable)

    @staticmethod
    def parts(pl_module: TrainingModule) -> list[tuple[str, Split]]:
        """The parts of the images that are used in each epoch, by name."""
        return [("train", pl_module.images.train), (pl_module.images.measured_part, pl_module.images.measured)]

    @staticmethod
    def recipe(pl_module: pl.LightningModule) -> Any:
        """The recipe of a module."""
        assert isinstance(pl_module, TrainingModule)
        return pl_module.recipe


class Progress(Callback):
    """The progress of each epoch."""

    def __init__(self) -> None:
        self.bar: Bar | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Open the bar with the first batch of the epoch, or the first after a resumption."""
        if self.bar is not None:
            return
        # An epoch's own line comes at its end; only long ones have others.
        self.bar = Bar(
            total=int(trainer.num_training_batches),
            initial=args[1],
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            unit="batch",
            mininterval=0.5,
            first=60.0,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Advance it."""
        if self.bar is not None:
            self.bar.update()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that the epoch is being evaluated."""
        if self.bar is not None:
            self.bar.set_postfix_str("evaluating")

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.close()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the bar; the line that `say` prints follows."""
        self.close()


def say(epoch: Epoch, epochs: int, is_best: bool) -> None:
    """Print an epoch as one line, with the training time that is left.

    Of several processes, or where a tenth of the time went by waiting for images, also images per second and the
    longest wait.
    """
    left = epoch.seconds * (epochs - epoch.epoch)
    m, part = epoch.measured, PARTS[epoch.part]
    if "ap" in m:
        training, measured = "", "  ".join(f"{DETECTION.measures[n]} {_percent(m[n])}" for n in ("ap", "ap50", "ap75"))
        measured = f"{part} {measured}"
    else:
        training = f"  error {epoch.train['error']:5.2f} %"
        measured = f"{part} loss {m['loss']:.3f}  error {m['top1_error']:5.2f} %"
    print(
        f"epoch {epoch.epoch:>3}/{epochs}  lr {epoch.lr:<9.3g}training loss {epoch.train['loss']:.3f}{training}   "
        f"{measured}   {epoch.seconds:.1f} s{f', {span(left)} left' if left else ''}{_pace(epoch)}"
        f"{'  best' if is_best else ''}",
        flush=True,
    )


def _pace(epoch: Epoch) -> str:
    waits, seconds = epoch.data_seconds, max(epoch.seconds, 1e-3)
    if len(waits) == 1 and waits[0] < seconds / 10:
        return ""
    longest = max(range(len(waits)), key=waits.__getitem__)
    who = f" (process {longest})" if len(waits) > 1 else ""
    rate = f"{epoch.train_images / seconds:,.0f} images/s"
    return f", {rate}, {100 * waits[longest] / seconds:.0f} % waiting for data{who}"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:5.2f} %"
