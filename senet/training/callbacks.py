"""What happens around the training loop: keeping checkpoints and metrics, signals, progress."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint
from tqdm import tqdm

from senet.data import Data, Split
from senet.errors import DataError, RunError, SenetError
from senet.files import write_atomically
from senet.runs import folder as run
from senet.runs.checkpoint import KEY, header, kept_weights, read_ckpt, save
from senet.training.module import Classifier
from senet.training.plots import plot_curves


class Interrupted(SenetError):
    """A signal stopped the run after its state was saved. `signum`: which one; `folder`: the one to go on with."""

    def __init__(self, signum: int, folder: Path) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(f"stopped by {name}; saved in {folder}")
        self.signum, self.folder = signum, folder


def fingerprint(data: Data) -> str:
    """What a resumed run must find again: the classes, and the class of every image of both parts."""
    digest = blake2b("\0".join(data.classes).encode(), digest_size=16)
    for split in (data.train, data.val):
        digest.update(b"|" + split.targets.numpy().tobytes())
    return digest.hexdigest()


class AtomicIO(CheckpointIO):
    """Lightning's door to files: atomic writes, reads that execute nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write `last.ckpt`; the one before stays until the new one is whole. RunError where it cannot be written."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read `last.ckpt` with weights only, whatever is asked for."""
        return read_ckpt(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Signals:
    """SIGINT and SIGTERM while training: the first is noted, the second stops at once.

    signum: the signal that was noted, 0 for none.
    is_asked: whether another process asks to stop; that counts as SIGTERM.
    """

    def __init__(self, going_on: Path, is_asked: Callable[[], bool] = lambda: False) -> None:
        self.going_on, self.is_asked = going_on, is_asked
        self.signum = 0
        self.pid = os.getpid()
        self.before: dict[int, Any] = {}

    def take(self) -> None:
        """Take the signals over, but for those that are ignored; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self.before[signum] = signal.signal(signum, self.on_signal)

    def came(self) -> int:
        """The signal to stop for, 0 for none."""
        if not self.signum and self.is_asked():
            self.signum = signal.SIGTERM
        return self.signum

    def release(self) -> None:
        """Give them back to whoever had them."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def on_signal(self, signum: int, frame: Any) -> None:
        """Note the signal; exit with 128 plus its number where one was noted before."""
        if os.getpid() != self.pid:
            # A worker process, to which a terminal sends Ctrl-C too; it ends with the run.
            return
        if self.signum:
            going_on = f"--resume {shlex.quote(str(self.going_on))}"
            print(f"\nstopped at once; {going_on} goes on from the last checkpoint", file=sys.stderr)
            # Not KeyboardInterrupt, which Lightning makes an exit of its own.
            raise SystemExit(128 + signum)
        self.signum = signum
        print(
            "\nstopping when the batch, or the evaluation, is done (once more: at once, without saving)",
            file=sys.stderr,
            flush=True,
        )


class Keeper(Checkpoint):
    """Measures each epoch, writes metrics.csv, last.ckpt and best.safetensors, and stops for signals.

    set_epoch: tells the order of the images which epoch a resumed run is in.
    going_on: the folder to name in `--resume`: the run's, or the comparison's that it is a part of.
    say: called with each epoch's row, the number of epochs, and whether it is the best so far.
    is_asked: whether another process asks to stop.

    Lightning runs a `Checkpoint` callback after all others, so what is saved is the whole of the epoch.
    """

    def __init__(
        self,
        folder: Path,
        set_epoch: Callable[[int], object],
        going_on: Path,
        say: Callable[[dict[str, float], int, bool], None] | None = None,
        is_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.set_epoch, self.say = folder, set_epoch, say
        self.history: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self.seconds = 0.0
        self.clock = self.tick = 0.0
        self.lr = 0.0
        self.plateau_state: dict[str, object] | None = None
        self.step_ms: list[float] = []
        self.due = False
        self.signals = Signals(going_on, is_asked)

    def state_dict(self) -> dict[str, Any]:
        """History, best epoch, and the clock of an unfinished epoch."""
        return {"history": self.history, "best": self.best, "seconds": self.seconds, "step_ms": self.step_ms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.history, self.best = state_dict["history"], state_dict["best"]
        self.seconds, self.step_ms = state_dict["seconds"], state_dict["step_ms"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the recipe, and what is counted of an unfinished epoch."""
        assert isinstance(pl_module, Classifier)
        checkpoint[KEY] = header(pl_module.recipe, pl_module.images.classes, self.history[-1] if self.history else {})
        checkpoint["sums"] = pl_module.sums()
        checkpoint["images"] = fingerprint(pl_module.images)
        checkpoint["skipped"] = {part: list(split.skipped) for part, split in self.parts(pl_module)}
        checkpoint["order_epoch"] = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        checkpoint["plateau"] = pl_module.plateau.state_dict() if pl_module.plateau else None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up what `on_save_checkpoint` added; the plateau follows when the optimiser is there."""
        assert isinstance(pl_module, Classifier)
        pl_module.load_sums(checkpoint["sums"])
        # Lightning tells the order its epoch only when workers may already have fetched by it.
        self.set_epoch(checkpoint["order_epoch"])
        self.plateau_state = checkpoint["plateau"]
        for part, split in self.parts(pl_module):
            split.skipped.extend(line for line in checkpoint["skipped"][part] if line not in split.skipped)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; write the first checkpoint, so that a run can be resumed from its first step on."""
        assert isinstance(pl_module, Classifier)
        self.signals.take()
        # A run resumed in mid-epoch does not pass that epoch's start.
        self.clock = self.tick = time.perf_counter()
        if trainer.ckpt_path is None:
            self.keep(trainer)
        if pl_module.plateau is not None and self.plateau_state is not None:
            pl_module.plateau.load_state_dict(self.plateau_state)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self.signals.release()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.signals.release()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.clock = self.tick = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Note the rate that the step will use."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Time the step; save and stop where asked to."""
        now = time.perf_counter()
        self.step_ms.append(1000 * (now - self.tick))
        self.tick = now
        batch_idx: int = args[2]
        if batch_idx + 1 >= trainer.num_training_batches:
            # The epoch's end is a few lines away: stop, or save, there.
            self.seconds += now - self.clock
            return
        t = self.recipe(pl_module).train
        self.due = self.due or (t.save_batches > 0 and (batch_idx + 1) % t.save_batches == 0)
        # Gradients that wait for the rest of an accumulated step are in no checkpoint.
        if (self.signals.came() or self.due) and (batch_idx + 1) % t.accumulate == 0:
            self.due = False
            self.seconds += now - self.clock
            self.clock = now
            self.keep(trainer)
            self.stop_if_asked()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the epoch, keep its weights, stop where asked to."""
        assert isinstance(pl_module, Classifier)
        measured = pl_module.read_train() | pl_module.read_val()
        self.check(measured, trainer.current_epoch + 1)
        if pl_module.plateau is not None:
            pl_module.plateau.step(measured["test_loss"])
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": self.lr,
            **measured,
            "seconds": round(self.seconds, 3),
            "step_ms": round(sorted(self.step_ms)[len(self.step_ms) // 2], 3),
        }
        self.seconds, self.step_ms, self.due = 0.0, [], False
        self.history.append(row)
        improved = not self.best or row["test_top1_error"] < self.best["test_top1_error"]
        if improved:
            self.best = row
        # The best weights first: killed between the two, the resumed run comes to the same epoch again.
        if improved:
            self.keep_best(pl_module)
        self.keep(trainer)
        run.write_metrics(self.folder, self.history)
        if trainer.logger is not None:
            trainer.logger.log_metrics(
                {k: v for k, v in row.items() if k not in ("epoch", "step")}, step=int(row["step"])
            )
        if self.say is not None:
            self.say(row, self.recipe(pl_module).train.epochs, improved)
        self.stop_if_asked()

    def check(self, measured: dict[str, float], epoch: int) -> None:
        """Raise RunError for a loss that is no number, before it is kept; DataError where no image could be read."""
        for part in ("train", "test"):
            loss = measured[f"{part}_loss"]
            if math.isfinite(loss):
                continue
            if not measured[f"{part}_images"]:
                raise DataError(f"none of the {part} images can be read")
            raise RunError(
                f"epoch {epoch}: the {part} loss is {loss}; try a lower optim.lr. "
                f"{self.folder / run.LAST} is of the epoch before"
            )

    def keep(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt."""
        trainer.save_checkpoint(self.folder / run.LAST)

    def keep_best(self, pl_module: Classifier) -> None:
        """Write best.safetensors."""
        save(
            self.folder / run.BEST,
            kept_weights(pl_module.state_dict()),
            recipe=pl_module.recipe,
            classes=pl_module.images.classes,
            measurements=self.best,
        )

    def stop_if_asked(self) -> None:
        """Raise Interrupted after a signal."""
        if signum := self.signals.came():
            if self.history:
                plot_curves(self.folder / run.CURVES, {self.folder.name: [self.history]})
            raise Interrupted(signum, self.signals.going_on)

    @staticmethod
    def parts(pl_module: Classifier) -> list[tuple[str, Split]]:
        """The two parts of the images by name."""
        return [("train", pl_module.images.train), ("test", pl_module.images.val)]

    @staticmethod
    def recipe(pl_module: pl.LightningModule) -> Any:
        """The recipe of a module."""
        assert isinstance(pl_module, Classifier)
        return pl_module.recipe


class Progress(Callback):
    """A bar within each epoch, where somebody watches."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Open the bar with the epoch's first batch, or the first after a resumption."""
        if self.bar is not None:
            return
        self.bar = tqdm(
            total=int(trainer.num_training_batches),
            initial=args[1],
            desc=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            unit="batch",
            leave=False,
            disable=not sys.stderr.isatty(),
            mininterval=0.5,
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


def say(row: dict[str, float], epochs: int, is_best: bool) -> None:
    """Print an epoch's row as a line on standard output."""
    print(
        f"epoch {row['epoch']:>3.0f}/{epochs}  lr {row['lr']:<9.3g}"
        f"train loss {row['train_loss']:.3f}  error {row['train_error']:5.2f} %   "
        f"test loss {row['test_loss']:.3f}  error {row['test_top1_error']:5.2f} %   "
        f"{row['seconds']:.1f} s{'  best' if is_best else ''}",
        flush=True,
    )
