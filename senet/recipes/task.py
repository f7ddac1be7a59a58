"""What a network is trained to do: which figures say how well it does, and which fields of a recipe it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Panel(NamedTuple):
    """A drawing of curves over the epochs: one measure of the images an epoch is evaluated on, one of the training's.

    Attributes:
        title: Of the axis.
        measured: Name of the measure; "" for none.
        trained: Name of the measure in training; "" for none.
    """

    title: str
    measured: str
    trained: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is trained to do.

    Attributes:
        name: Of the task.
        measures: Name of each figure, in percent -> the words for it. The first one chooses the best epoch.
        higher: Whether a higher figure is better.
        word: What the first figure is, in one word.
        panels: The curves.
        without: Fields of a recipe that have no effect, and why.
    """

    name: str
    measures: Mapping[str, str]
    higher: bool
    word: str
    panels: tuple[Panel, ...]
    without: Mapping[str, str]

    @property
    def main(self) -> str:
        """The figure that chooses the best epoch."""
        return next(iter(self.measures))

    def best(self, values: Sequence[float | None]) -> float | None:
        """The best of some figures; None where none could be measured."""
        known = [v for v in values if v is not None]
        return (max if self.higher else min)(known, default=None)

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Whether a figure is better than another one; a figure that could not be measured is worse than any."""
        if value is None or than is None:
            return than is None and value is not None
        return value > than if self.higher else value < than


_OF_OBJECTS: dict[str, str] = dict.fromkeys(
    ("data.max_size", "data.scales", "data.keep_empty"), "images of classes; they are of images with objects"
)
_OF_CLASSES: dict[str, str] = dict.fromkeys(
    (
        *("data.in_memory", "data.crop", "data.crop_padding", "data.crop_scale", "data.crop_ratio", "data.rotate"),
        *("data.jitter", "data.cutout", "data.auto_augment", "data.randaugment_ops", "data.randaugment_magnitude"),
        *("data.color_jitter", "data.random_erasing", "data.mixup", "data.cutmix", "data.balanced", "data.resize"),
        *("data.keep_aspect", "data.root", "optim.trunk_lr", "optim.layer_decay", "train.label_smoothing"),
        *("train.class_weights", "train.drop_path", "train.compile"),
    ),
    "a detector",
)
_OF_CLASSES["train.freeze_epochs"] = _OF_CLASSES["train.freeze_bn_epochs"] = (
    "a detector; what it freezes say model.freeze_at and model.freeze_norm"
)

CLASSIFICATION = Task(
    name="classification",
    measures={"top1_error": "top-1 error", "top5_error": "top-5 error"},
    higher=False,
    word="error",
    panels=(Panel("Error, %", "top1_error", "error"), Panel("Loss", "loss", "loss")),
    without=_OF_OBJECTS,
)

DETECTION = Task(
    name="detection",
    measures={
        "ap": "AP",
        "ap50": "AP50",
        "ap75": "AP75",
        "ap_small": "AP of small objects",
        "ap_medium": "AP of medium objects",
        "ap_large": "AP of large objects",
    },
    higher=True,
    word="AP",
    panels=(Panel("AP, %", "ap", ""), Panel("Loss", "", "loss")),
    without=_OF_CLASSES,
)

TASKS = {task.name: task for task in (CLASSIFICATION, DETECTION)}
