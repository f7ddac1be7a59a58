"""What a task is in training: the loss of a batch, and how an epoch is measured. `senet.recipes.task` has its words."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.counting import Tally
from senet.data import Data
from senet.data.objects import ObjectSplit
from senet.evaluation.detection import APTally
from senet.outputs import logits_of
from senet.recipes.recipe import Recipe


class Measuring(Protocol):
    """Counts over batches how well a network does.

    Attributes:
        count: Images so far.
    """

    count: int

    def add(self, outputs: Any, targets: Any) -> None:
        """Add the outputs for a batch."""

    def gather_(self) -> None:
        """Count what all processes counted."""

    def read(self) -> dict[str, Any]:
        """The number of `images` and the task's measures."""
        ...

    def read_classes(self) -> list[tuple[int, int, int]]:
        """Counts by class; none of a detector."""
        ...


class TrainedTask(Protocol):
    """What the training loop asks.

    Attributes:
        terms: What `step` sums beside the loss.
    """

    terms: tuple[str, ...]

    def step(self, network: nn.Module, images: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the sums over its images of loss and `terms`, (1 + terms,) float64."""
        ...

    def answer(self, network: nn.Module, images: Any) -> Any:
        """The network's outputs, as the tally takes them."""
        ...

    def tally(self) -> Measuring:
        """Counts from zero."""
        ...


class Classification:
    """Cross entropy; top-1 and top-5 errors."""

    terms = ("error",)

    def __init__(self, recipe: Recipe, data: Data) -> None:
        self.smoothing = recipe.train.label_smoothing
        self.class_weights = balanced_weights(data) if recipe.train.class_weights == "balanced" else None
        data.train.classes = len(data.classes)

    def step(self, network: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy, and the error in percent; targets are classes or, of mixed images, probabilities."""
        logits = self.answer(network, images)
        loss = self.loss(logits, targets)
        with torch.no_grad():
            answers = logits.argmax(1)
            # Of a mixed image, the share of the target that the answer misses.
            wrong = ((answers != targets) if targets.dim() == 1 else 1 - targets.gather(1, answers[:, None])).sum()
            return loss, torch.stack([loss.detach() * len(targets), 100 * wrong.to(loss.dtype)]).double()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy of a batch; targets: classes `(n,)`, or probabilities `(n, classes)` of mixed images."""
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)
        weights = self.class_weights.to(logits.device)
        # The mean over images: torch's own mean divides classes by the weights of the batch, and probabilities not.
        total = F.cross_entropy(logits, targets, weights, label_smoothing=self.smoothing, reduction="sum")
        return total / len(targets)

    def answer(self, network: nn.Module, images: Tensor) -> Tensor:
        """The logits."""
        return logits_of(network(images))

    def tally(self) -> Tally:
        """Errors."""
        return Tally()


class Detection:
    """The sum of a detector's loss terms; average precision."""

    terms: tuple[str, ...]

    def __init__(self, recipe: Recipe, data: Data) -> None:
        assert isinstance(data.measured, ObjectSplit)
        self.split, self.classes = data.measured, data.classes
        self.terms = terms_of(recipe)
        self.kind = "segm" if recipe.data.labels == "masks" else "bbox"

    def step(self, network: nn.Module, images: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss, and its terms."""
        found = network(images, targets)
        values = torch.stack([found[name] for name in self.terms])
        loss = values.sum()
        return loss, torch.cat([loss.detach()[None], values.detach()]).double() * len(targets)

    def answer(self, network: nn.Module, images: Any) -> Any:
        """The detections."""
        return network(images)

    def tally(self) -> APTally:
        """Average precision."""
        return APTally(self.split.objects, self.classes, kind=self.kind)


def terms_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the terms of a detector's loss, as torchvision calls them."""
    head = recipe.model.head  # type: ignore[attr-defined]
    if head == "retinanet":
        return ("classification", "bbox_regression")
    masks = ("loss_mask",) if head == "maskrcnn" else ()
    return ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", *masks)


def task_of(recipe: Recipe, data: Data) -> TrainedTask:
    """The task of a recipe on its images."""
    return Detection(recipe, data) if recipe.task.name == "detection" else Classification(recipe, data)  # type: ignore[return-value]


def balanced_weights(data: Data) -> Tensor:
    """The weight of each class, n / (classes * images of the class) of n training images: (classes,) float32.

    Their mean over the training images is 1. A class without training images has weight 0.
    """
    counts = data.train.targets.bincount(minlength=len(data.classes))
    present = counts > 0
    weights = len(data.train) / (present.sum() * counts.clamp(min=1)).float()
    return weights * present
