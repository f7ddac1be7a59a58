"""metrics.csv: one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from senet.config import field_types
from senet.errors import RunError
from senet.files import write_text
from senet.runs.folder import METRICS


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What was measured in one epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Optimiser steps so far.
        lr: Learning rate of the last step.
        train_loss: Mean cross entropy of the training images, as they were augmented, in nats.
        train_error: Their top-1 error in percent.
        train_images: How many they were.
        test_loss: Mean cross entropy of the test images in nats.
        test_top1_error: Their top-1 error in percent.
        test_top5_error: Their top-5 error in percent.
        test_images: How many they were.
        seconds: Training time, without the evaluation.
        step_ms: Median time of a step in milliseconds.
    """

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_error: float
    train_images: int
    test_loss: float
    test_top1_error: float
    test_top5_error: float
    test_images: int
    seconds: float
    step_ms: float


def write_metrics(folder: Path, history: Sequence[Epoch]) -> None:
    """Write metrics.csv anew from all epochs so far, so that a resumed run has each epoch once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[f.name for f in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows([asdict(epoch) for epoch in history])
    write_text(folder / METRICS, text.getvalue())


def read_metrics(folder: Path) -> list[Epoch]:
    """The epochs of a run so far, none where it has finished none; RunError where the file is damaged."""
    path = folder / METRICS
    if not path.is_file():
        return []
    types = field_types(Epoch)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [Epoch(**{name: types[name](row[name]) for name in types}) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
