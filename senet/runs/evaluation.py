"""evaluation.json: what an evaluation measures, in all and in detail. Errors in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from senet.recipes.recipe import PARTS
from senet.runs.folder import EVALUATION, json_file
from senet.weights.ilsvrc import named

COUNTED = 1000
"""Number of images below which counts stand beside percentages."""

FEW = 100
"""With fewer images than this, a note says that the error is uncertain."""

UNBALANCED = 10
"""Ratio of the largest class to the smallest above which a note says that classes are unbalanced."""


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


def class_errors(classes: Sequence[str], counts: Iterable[tuple[int, int, int]]) -> tuple[ClassErrors, ...]:
    """The errors of each class from what `Tally.read_classes` counted."""
    return tuple(
        ClassErrors(
            name=name,
            images=n,
            top1_error=100 * (n - first) / n if n else None,
            top5_error=100 * (n - five) / n if n else None,
        )
        for name, (n, first, five) in zip(classes, counts, strict=True)
    )


def wrong(error: float, images: int) -> str:
    """An error in percent of so many images in words, with the count where they are few.

    >>> wrong(0.2786, 359), wrong(8.125, 10_000)
    ('0.28 % (1 of 359)', '8.13 %')
    """
    count = f" ({round(error * images / 100)} of {images})" if images < COUNTED else ""
    return f"{error + 1e-9:.2f} %{count}"


def interval(error: float, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval in percent of an error in percent of so many images, 1 or more."""
    from scipy.stats import binomtest

    found = binomtest(round(error * images / 100), images).proportion_ci(0.95, method="wilson")
    return 100 * found.low, 100 * found.high


def remarks(per_class: Sequence[ClassErrors], part: str) -> tuple[str, ...]:
    """What to know before believing an error: a line each for few images, chance and the worst class, where it is so.

    Args:
        per_class: The errors of each class.
        part: Which images these are, "train", "val", "test" or "all".
    """
    rows = [row for row in per_class if row.images]
    total = sum(row.images for row in rows)
    if not total:
        return ()
    wrong = sum(round(row.images * (row.top1_error or 0) / 100) for row in rows)
    error = 100 * wrong / total
    worst = max(rows, key=lambda row: row.top1_error or 0)
    most = max(rows, key=lambda row: row.images)
    lines = []
    if total < FEW:
        low, high = interval(error, total)
        what = f"{PARTS[part]} images" if part in PARTS else "images"
        lines.append(f"few {what}, {total}: the 95 % interval of the error is {low:.1f} to {high:.1f} %")
    if len(rows) > 1 and wrong >= total - most.images:
        name, chance = named([most.name])[0], 100 * (1 - most.images / total)
        lines.append(f"no better than chance: the answer {name!r} for every image has an error of {chance:.2f} %")
    if (worst.top1_error or 0) > error:
        name, count = named([worst.name])[0], f"{worst.images:,} image{'' if worst.images == 1 else 's'}"
        lines.append(f"worst class: {name!r}, error {worst.top1_error:.1f} % of {count}")
    return tuple(lines)


def unbalanced(class_images: Mapping[str, int]) -> tuple[str, ...]:
    """A line where the largest class has more than `UNBALANCED` times as many images as the smallest, else none."""
    most, least = (choose(class_images, key=class_images.__getitem__) for choose in (max, min))
    if class_images[most] <= UNBALANCED * class_images[least]:
        return ()
    many, few = named([most, least])
    return (
        f"unbalanced classes: {class_images[most]:,} training images of {many!r}, {class_images[least]:,} of {few!r}",
    )


def class_counts(class_images: Mapping[str, int], thing: str = "image") -> str:
    """The number of images, or of other things, of each class in words; for many classes or about equal, the range.

    >>> class_counts({"cat": 30, "dog": 20}), class_counts({str(k): 5 for k in range(100)})
    ('cat 30, dog 20', '100 classes of 5 images')
    """
    low, high = min(class_images.values()), max(class_images.values())
    if len(class_images) <= 10 and high > 1.1 * low:
        return ", ".join(f"{name} {n:,}" for name, n in zip(named(class_images), class_images.values(), strict=True))
    count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{len(class_images):,} classes of {count} {thing}{'s' * (high != 1)}"


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
class Mistake:
    """An image whose most probable class is not its own.

    Attributes:
        truth: Its class.
        answer: The most probable one.
        confidence: The probability of that, 0 to 1.
        picture: The image as a data URI.
    """

    truth: str
    answer: str
    confidence: float
    picture: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors over a set of images; without details the fields from `confusion` on are empty.

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
        part: Which images these are, "val" or "test", where that is known.
        mistakes: Some images with wrong answers, the most confident first.
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
    part: str = ""
    mistakes: tuple[Mistake, ...] = ()

    @property
    def has_top5(self) -> bool:
        """Whether the top-5 error says anything: with five classes or fewer, the right one is always among five."""
        return not 0 < len(self.per_class) <= 5

    def __str__(self) -> str:
        """Return the errors in one line."""
        n = len(self.skipped_images)
        skipped = f", {n:,} image{'' if n == 1 else 's'} skipped" if n else ""
        top5 = f", top-5 error {self.top5_error:.2f} %" if self.has_top5 else ""
        return f"top-1 error {self.top1_error:.2f} %{top5}, loss {self.loss:.4f}, {self.images:,} images{skipped}"


write_evaluation, read_evaluation = json_file(Evaluation, EVALUATION, indent=None)
