"""Around the training loop: checkpoints, metrics, signals, progress."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
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
from senet.runs.checkpoint import KEY, header, kept_weights, read_ckpt, save
from senet.runs.folder import BEST, CURVES, LAST
from senet.runs.metrics import Epoch, write_metrics
from senet.training.module import Classifier
from senet.training.plots import plot_curves


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
    """A digest of the classes and of every image's class, by which a resumed run recognises its images."""
    digest = blake2b("\0".join(data.classes).encode(), digest_size=16)
    for split in (data.train, data.val):
        digest.update(b"|" + split.targets.numpy().tobytes())
    return digest.hexdigest()


class AtomicIO(CheckpointIO):
    """How Lightning writes and reads checkpoints: atomically, and without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; the one before stays until the new one is complete. RunError where that fails."""
        write_atomically(Path(path), lambda file: torch.save(checkpoint, file))

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
        """The signal to stop for, 0 for none."""
        if not self.signum and self.is_asked():
            self.signum = signal.SIGTERM
        return self.signum

    def release(self) -> None:
        """Restore the handlers of before."""
        for signum, handler in self.before.items():
            signal.signal(signum, handler)
        self.before = {}

    def on_signal(self, signum: int, frame: Any) -> None:
        """Note the signal; exit with 128 plus its number where one was noted before."""
        if os.getpid() != self.pid:
            # A worker process: a terminal sends Ctrl-C to it too, and it ends with the run.
            return
        if self.signum:
            resume = f"--resume {shlex.quote(str(self.resumable))}"
            print(f"\nstopped at once; {resume} continues from the last checkpoint", file=sys.stderr)
            # Not KeyboardInterrupt, which Lightning turns into an exit of its own.
            raise SystemExit(128 + signum)
        self.signum = signum
        print(
            "\nstopping when the batch, or the evaluation, is done (once more: at once, without saving)",
            file=sys.stderr,
            flush=True,
        )


class Keeper(Checkpoint):
    """Measures each epoch, writes metrics.csv, last.ckpt and best.safetensors, and stops for signals.

    Lightning runs a `Checkpoint` callback after all others, so the saved state includes theirs.

    Args:
        folder: The run's.
        set_epoch: Sets the epoch of the sampler, for a resumed run.
        resumable: The folder that messages name for `--resume`: the run's, or that of its experiment.
        say: Called with each epoch, the number of epochs, and whether it is the best so far.
        is_asked: Whether another process asks to stop.
    """

    def __init__(
        self,
        folder: Path,
        set_epoch: Callable[[int], object],
        resumable: Path,
        say: Callable[[Epoch, int, bool], None] | None = None,
        is_asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self.set_epoch, self.say = folder, set_epoch, say
        self.history: list[Epoch] = []
        self.seconds = 0.0
        self.clock = self.tick = 0.0
        self.lr = 0.0
        self.plateau_state: dict[str, object] | None = None
        self.step_ms: list[float] = []
        self.due = False
        self.signals = Signals(resumable, is_asked)

    def state_dict(self) -> dict[str, Any]:
        """The finished epochs, and the clock of an unfinished one."""
        return {"history": [asdict(e) for e in self.history], "seconds": self.seconds, "step_ms": self.step_ms}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.history = [Epoch(**values) for values in state_dict["history"]]
        self.seconds, self.step_ms = state_dict["seconds"], state_dict["step_ms"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the recipe, and the sums of an unfinished epoch."""
        assert isinstance(pl_module, Classifier)
        measured = asdict(self.history[-1]) if self.history else {}
        checkpoint[KEY] = header(pl_module.recipe, pl_module.images.classes, measured)
        checkpoint["sums"] = pl_module.sums()
        checkpoint["images"] = fingerprint(pl_module.images)
        checkpoint["skipped"] = {part: list(split.skipped) for part, split in self.parts(pl_module)}
        checkpoint["order_epoch"] = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        checkpoint["plateau"] = pl_module.plateau.state_dict() if pl_module.plateau else None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore what `on_save_checkpoint` added; the plateau waits for the optimiser."""
        assert isinstance(pl_module, Classifier)
        pl_module.load_sums(checkpoint["sums"])
        # Lightning sets the sampler's epoch only after workers may have fetched from it.
        self.set_epoch(checkpoint["order_epoch"])
        self.plateau_state = checkpoint["plateau"]
        for part, split in self.parts(pl_module):
            split.skipped.extend(line for line in checkpoint["skipped"][part] if line not in split.skipped)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers; write a first checkpoint, so that a run can be resumed from its first step."""
        assert isinstance(pl_module, Classifier)
        self.signals.take()
        # A run resumed in mid-epoch does not pass that epoch's start.
        self.clock = self.tick = time.perf_counter()
        if trainer.ckpt_path is None:
            self.keep(trainer)
        if pl_module.plateau is not None and self.plateau_state is not None:
            pl_module.plateau.load_state_dict(self.plateau_state)

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
        """Note the learning rate of the step."""
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

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
        assert isinstance(pl_module, Classifier)
        measured = pl_module.read_train() | pl_module.read_val()
        self.check(measured, trainer.current_epoch + 1)
        if pl_module.plateau is not None:
            pl_module.plateau.step(measured["test_loss"])
        epoch = Epoch(
            epoch=trainer.current_epoch + 1,
            step=trainer.global_step,
            lr=self.lr,
            **measured,
            seconds=round(self.seconds, 3),
            step_ms=round(sorted(self.step_ms)[len(self.step_ms) // 2], 3),
        )
        self.seconds, self.step_ms, self.due = 0.0, [], False
        improved = all(epoch.test_top1_error < earlier.test_top1_error for earlier in self.history)
        self.history.append(epoch)
        # The best weights first: killed between the two, the resumed run reaches the same epoch again.
        if improved:
            self.keep_best(pl_module)
        self.keep(trainer)
        write_metrics(self.folder, self.history)
        if trainer.logger is not None:
            values = {name: value for name, value in asdict(epoch).items() if name not in ("epoch", "step")}
            trainer.logger.log_metrics(values, step=epoch.step)
        if self.say is not None:
            self.say(epoch, self.recipe(pl_module).train.epochs, improved)
        self.stop_if_asked()

    def check(self, measured: dict[str, Any], epoch: int) -> None:
        """Raise RunError for a loss of NaN or infinity, before it is saved; DataError where no image could be read."""
        for part in ("train", "test"):
            loss = measured[f"{part}_loss"]
            if math.isfinite(loss):
                continue
            if not measured[f"{part}_images"]:
                raise DataError(f"none of the {part} images can be read")
            raise RunError(
                f"epoch {epoch}: the {part} loss is {loss}; try a lower optim.lr. "
                f"{self.folder / LAST} is of the epoch before"
            )

    def keep(self, trainer: pl.Trainer) -> None:
        """Write last.ckpt."""
        trainer.save_checkpoint(self.folder / LAST)

    def keep_best(self, pl_module: Classifier) -> None:
        """Write best.safetensors."""
        save(
            self.folder / BEST,
            kept_weights(pl_module.state_dict()),
            recipe=pl_module.recipe,
            classes=pl_module.images.classes,
            measurements=asdict(self.history[-1]),
        )

    def stop_if_asked(self) -> None:
        """Raise Interrupted after a signal."""
        if signum := self.signals.came():
            if self.history:
                plot_curves(self.folder / CURVES, {self.folder.name: [self.history]})
            raise Interrupted(signum, self.signals.resumable)

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
    """A progress bar in each epoch, on a terminal."""

    def __init__(self) -> None:
        self.bar: tqdm[Any] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Open the bar with the first batch of the epoch, or the first after a resumption."""
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


def say(epoch: Epoch, epochs: int, is_best: bool) -> None:
    """Print an epoch as one line."""
    print(
        f"epoch {epoch.epoch:>3}/{epochs}  lr {epoch.lr:<9.3g}"
        f"train loss {epoch.train_loss:.3f}  error {epoch.train_error:5.2f} %   "
        f"test loss {epoch.test_loss:.3f}  error {epoch.test_top1_error:5.2f} %   "
        f"{epoch.seconds:.1f} s{'  best' if is_best else ''}",
        flush=True,
    )
