"""summary.json: the result of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from senet.runs.folder import SUMMARY, json_file


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The result of a run; figures in percent.

    They are of the last epoch, on the validation or the test images. Where there are both, they are those of the
    test images, measured once at the end with the weights of the best epoch.

    Attributes:
        task: What it is trained to do, "classification" or "detection".
        model: Name of the network.
        data: Name of the data set.
        seed: Of the weights, the order and the augmentation.
        epochs: Passes over the training images.
        train_images: Images in an epoch of training, as many as were used.
        class_images: Name of a class -> how many training images it has; of a detector, how many objects.
        part: Which images the figures are of, "val" or "test".
        epoch: Of the weights that the figures are of, from 1.
        eval_images: How many images the figures are of.
        skipped_images: Names of the images that could not be read, with the reason.
        params: Parameters of the network.
        macs: Its multiply-adds for one image.
        measured: What was measured, by name, see `Epoch.measured`.
        best: Best figure of all epochs on the validation images, the task's first; None where there are none.
        best_epoch: The epoch of it, from 1, whose weights are kept; None where the last epoch's are.
        train_seconds: Training time of all epochs, without evaluation.
        step_ms: Median time of a training step in milliseconds.
        step_spread_ms: Half the range of the medians of its epochs.
        wall_seconds: Time of the process that finished the run, with evaluation and loading.
        notes: What to know before believing the errors, a line each.
    """

    task: str = "classification"
    model: str
    data: str
    seed: int
    epochs: int
    train_images: int
    class_images: Mapping[str, int]
    part: str
    epoch: int
    eval_images: int
    skipped_images: tuple[str, ...]
    params: int
    macs: int
    measured: Mapping[str, float | None]
    best: float | None
    best_epoch: int | None
    train_seconds: float
    step_ms: float
    wall_seconds: float
    notes: tuple[str, ...] = ()
    step_spread_ms: float = 0.0


write_summary, read_summary = json_file(RunSummary, SUMMARY)
