"""detection.json: how well a detector finds objects, in all and in detail. Figures in percent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from senet.runs.folder import DETECTION, json_file


@dataclass(frozen=True, kw_only=True)
class ClassAP:
    """Average precision of one class.

    Attributes:
        name: Of the class.
        objects: How many are annotated, without crowds.
        ap: Mean over the overlaps 0.5 to 0.95; None without objects.
        ap50: At an overlap of 0.5.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A box on a picture: left, top, width and height as shares of it, its class, and the score of a found one."""

    box: tuple[float, float, float, float]
    name: str
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image with what is annotated and what was found.

    Attributes:
        file: Its name.
        picture: Data URI.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        truth: The annotated objects.
        found: The detections that are sure enough to show.
    """

    file: str
    picture: str
    width: int
    height: int
    truth: tuple[Labelled, ...]
    found: tuple[Labelled, ...]


@dataclass(frozen=True, kw_only=True)
class DetectionEvaluation:
    """How well a detector finds the objects of a set of images.

    Attributes:
        images: How many were read.
        objects: How many objects they have, without crowds.
        measured: The figures of `senet.recipes.task.DETECTION`; None for one that these images do not give.
        recall: Mean recall of the best 1, 10 and 100 detections of an image.
        per_class: Average precision of each class.
        curves: An overlap -> precision at the recalls 0, 0.01, ..., 1, mean over the classes with objects.
        examples: Some images.
        skipped_images: Names of those that could not be read, with the reason.
        epoch: Of the checkpoint that was evaluated, where that is known.
        part: Which images these are, "val" or "test", where that is known.
    """

    images: int
    objects: int
    measured: Mapping[str, float | None]
    recall: tuple[float | None, ...]
    per_class: tuple[ClassAP, ...]
    curves: Mapping[str, tuple[float, ...]]
    examples: tuple[Example, ...] = ()
    skipped_images: tuple[str, ...] = ()
    epoch: int | None = None
    part: str = ""


write_detection, read_detection = json_file(DetectionEvaluation, DETECTION, indent=None)
