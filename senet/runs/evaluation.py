"""evaluation.json: what an evaluation measures, in all and in detail. Errors in percent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from senet.runs.folder import EVALUATION, read_value, write_value


@dataclass(frozen=True, kw_only=True)
class ClassErrors:
    """The errors of one class.

    Attributes:
        name: Of the class.
        images: How many it has.
        top1_error: In percent; None without images. So `top5_error`.
    """

    name: str
    images: int
    top1_error: float | None
    top5_error: float | None


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """The answers of similar confidence, a bar of the reliability diagram.

    Attributes:
        low: Confidence above which an answer is in the bin, 0 to 1.
        high: Confidence up to which it is.
        images: How many answers.
        confidence: Their mean confidence; None without images.
        accuracy: Share that is right, 0 to 1; None without images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a network is as sure as it is right (arXiv:1706.04599, section 2).

    Attributes:
        ece: Expected calibration error, 0 to 1.
        mce: Largest calibration error of a bin, 0 to 1.
        brier: Mean squared distance between probabilities and truth, summed over classes, 0 to 2.
        nll: Mean cross entropy in nats.
        bins: Of equal width, from low to high confidence.
    """

    ece: float
    mce: float
    brier: float
    nll: float
    bins: tuple[CalibrationBin, ...]


@dataclass(frozen=True, kw_only=True)
class Tempered:
    """What a temperature does to the calibration: fitted on one half of the images, judged on the other.

    Attributes:
        temperature: Divides the logits.
        fitted_on: Images of the first half.
        measured_on: Images of the other.
        before: `ece` and `nll` of the other half.
        after: The same with the temperature.
    """

    temperature: float
    fitted_on: int
    measured_on: int
    before: Calibration
    after: Calibration


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors over a set of images; without details the fields from `per_class` on are empty.

    Attributes:
        top1_error: In percent; so `top5_error`.
        loss: Mean cross entropy in nats.
        images: How many were read.
        skipped_images: Names of those that could not be, with the reason.
        per_class: Errors of each class.
        confusion: Counts of images, K x K; rows are the truth, columns the answer.
        calibration: None without images.
        tempered: None for fewer than 2 images.
        epoch: Of the checkpoint that was evaluated, where that is known.
    """

    top1_error: float
    top5_error: float
    loss: float
    images: int
    skipped_images: tuple[str, ...] = ()
    per_class: tuple[ClassErrors, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: Calibration | None = None
    tempered: Tempered | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        """Return the errors in one line."""
        n = len(self.skipped_images)
        skipped = f", {n:,} image{'' if n == 1 else 's'} skipped" if n else ""
        return (
            f"top-1 error {self.top1_error:.2f} %, top-5 error {self.top5_error:.2f} %, loss {self.loss:.4f}, "
            f"{self.images:,} images{skipped}"
        )


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write evaluation.json; RunError where it cannot be written."""
    write_value(folder / EVALUATION, evaluation, indent=None)


def read_evaluation(folder: Path) -> Evaluation | None:
    """The evaluation of a run, None where there is none; RunError where the file is damaged or of another senet."""
    path = folder / EVALUATION
    return read_value(Evaluation, path) if path.is_file() else None
