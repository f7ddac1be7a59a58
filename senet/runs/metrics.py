"""metrics.csv: one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from senet.errors import RunError
from senet.files import write_text
from senet.recipes.task import Task
from senet.runs.folder import METRICS


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What was measured in one epoch; which figures, the task says (`senet.recipes.task`).

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Optimiser steps so far.
        lr: Learning rate of the last step.
        train: Means over the training images, as they were augmented: "loss", and "error" (top-1, in percent) or the
            terms of a detector's loss.
        train_images: How many they were.
        part: Which images it was evaluated on: "val" where there are validation images, else "test".
        measured: Figures on these images: "loss" (cross entropy, in nats), "top1_error" and "top5_error" in percent, or
            a detector's "ap", "ap50" and so on in percent; None for one that these images do not give.
        eval_images: How many they were.
        seconds: Training time, without the evaluation.
        step_ms: Median time of a step in milliseconds.
        data_seconds: How much of `seconds` each process waited for its images.
    """

    epoch: int
    step: int
    lr: float
    train: Mapping[str, float]
    train_images: int
    part: str
    measured: Mapping[str, float | None]
    eval_images: int
    seconds: float
    step_ms: float
    data_seconds: tuple[float, ...]

    def row(self) -> dict[str, float | int | str | None]:
        """All values by the names of columns: "train_loss", "eval_top1_error"."""
        row: dict[str, float | int | str | None] = {"epoch": self.epoch, "step": self.step, "lr": self.lr}
        row |= {f"train_{name}": value for name, value in self.train.items()}
        row |= {"train_images": self.train_images, "part": self.part}
        row |= {f"eval_{name}": value for name, value in self.measured.items()}
        row |= {"eval_images": self.eval_images, "seconds": self.seconds, "step_ms": self.step_ms}
        return row | {"data_seconds": " ".join(map(str, self.data_seconds))}

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> Epoch:
        """The epoch of a row of texts; KeyError or ValueError for another row."""
        counts = ("epoch", "step", "train_images", "eval_images")
        named = {n: v for n, v in row.items() if n not in counts}
        train = {n.removeprefix("train_"): float(v) for n, v in named.items() if n.startswith("train_")}
        measured = {n.removeprefix("eval_"): v for n, v in named.items() if n.startswith("eval_")}
        return cls(
            epoch=int(row["epoch"]),
            step=int(row["step"]),
            train_images=int(row["train_images"]),
            eval_images=int(row["eval_images"]),
            lr=float(row["lr"]),
            seconds=float(row["seconds"]),
            step_ms=float(row["step_ms"]),
            data_seconds=tuple(map(float, row["data_seconds"].split())),
            part=row["part"],
            train=train,
            measured={name: float(value) if value else None for name, value in measured.items()},
        )


def best_epoch(history: Sequence[Epoch], task: Task) -> Epoch:
    """The first of the epochs with the best figure."""
    best = task.best([epoch.measured[task.main] for epoch in history])
    return next((epoch for epoch in history if epoch.measured[task.main] == best), history[0])


def write_metrics(folder: Path, history: Sequence[Epoch]) -> None:
    """Write metrics.csv anew from all epochs so far, so that a resumed run has each epoch once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0].row()) if history else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([epoch.row() for epoch in history])
    write_text(folder / METRICS, text.getvalue())


def read_metrics(folder: Path) -> list[Epoch]:
    """The epochs of a run so far, none where it has finished none; RunError where the file is damaged."""
    path = folder / METRICS
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [Epoch.of_row(row) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
