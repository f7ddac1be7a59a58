"""summary.json: the result of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from senet.runs.folder import SUMMARY, read_value, write_value


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The result of a run; errors in percent, of the last epoch unless they say best.

    Attributes:
        model: Name of the network.
        data: Name of the data set.
        seed: Of the weights, the order and the augmentation.
        epochs: Passes over the training images.
        train_images: Images in an epoch of training.
        test_images: Images that the errors are of.
        skipped_images: Names of the images that could not be read, with the reason.
        params: Parameters of the network.
        macs: Its multiply-adds for one image.
        top1_error: Part of the test images whose class is not the first answer.
        top5_error: Part whose class is not among the first five.
        loss: Mean cross entropy of the test images in nats.
        best_top1_error: Lowest error of all epochs.
        best_epoch: The epoch of it, from 1.
        train_seconds: Training time of all epochs, without evaluation.
        step_ms: Median time of a training step in milliseconds.
        wall_seconds: Time of the process that finished the run, with evaluation and loading.
    """

    model: str
    data: str
    seed: int
    epochs: int
    train_images: int
    test_images: int
    skipped_images: tuple[str, ...]
    params: int
    macs: int
    top1_error: float
    top5_error: float
    loss: float
    best_top1_error: float
    best_epoch: int
    train_seconds: float
    step_ms: float
    wall_seconds: float


def write_summary(folder: Path, summary: RunSummary) -> None:
    """Write summary.json; RunError where it cannot be written."""
    write_value(folder / SUMMARY, summary)


def read_summary(folder: Path) -> RunSummary | None:
    """The result of a finished run, else None; RunError where the file is damaged or of another senet."""
    path = folder / SUMMARY
    return read_value(RunSummary, path) if path.is_file() else None
