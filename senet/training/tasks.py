"""What a task is in training: the loss of a batch, and how an epoch is measured. `senet.recipes.task` has its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.counting import Tally
from senet.data import Data
from senet.data.objects import ObjectSplit
from senet.evaluation.detection import APTally
from senet.outputs import logits_of
from senet.processes import gathered, rank, world
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

    def absent(self, network: nn.Module, images: Any) -> Tensor:
        """0, with gradients of 0, in a process without an image while others compute `step`."""
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

    def absent(self, network: nn.Module, images: Tensor) -> Tensor:
        """0, of no image."""
        return 0 * self.answer(network, images[:0]).sum()

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
        self.terms, self.channels = terms_of(recipe), recipe.model.in_channels
        self.has_samplers = bool(BOXES.keys() & {*self.terms})
        self.kind = "segm" if recipe.data.labels == "masks" else "bbox"

    def step(self, network: nn.Module, images: Any, targets: Any) -> tuple[Tensor, Tensor]:
        """The loss, and its terms."""
        meet_(network, images)
        found = network(images, targets)
        values = torch.stack([found[name] for name in self.terms])
        values = values * torch.tensor(self.shares(network, len(images))).to(values)
        loss = values.sum()
        return loss, torch.cat([loss.detach()[None], values.detach()]).double() * len(targets)

    def absent(self, network: Any, images: Any) -> Tensor:
        """0, of no image."""
        height, width = meet_(network, [])
        weights = [p for p in network.parameters() if p.requires_grad]
        maps = network.backbone(weights[0].new_zeros(0, self.channels, height, width)).values()
        self.shares(network, 0)
        return 0 * torch.stack([t.sum() for t in (*maps, *weights)]).sum()

    def shares(self, network: Any, images: int) -> list[float]:
        """By what each term is multiplied, so that the mean over the images of all processes is that of one process.

        The terms of an R-CNN are means over boxes, of which images have different numbers.
        """
        if world() == 1:
            return [1.0] * len(self.terms)
        own = [images]
        if self.has_samplers:
            rpn, heads = network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler
            own += [rpn.drawn, heads.drawn, heads.positives] if images else [0, 0, 0]
        total = [sum(counts) for counts in zip(*gathered(own), strict=True)]
        shares = [n * total[0] / max(1, images * of_all) for n, of_all in zip(own, total, strict=True)]
        return [shares[BOXES.get(term, 0)] for term in self.terms]

    def answer(self, network: nn.Module, images: Any) -> Any:
        """The detections."""
        return network(images)

    def tally(self) -> APTally:
        """Average precision."""
        return APTally(self.split.objects, self.classes, kind=self.kind)


BOXES = {"loss_objectness": 1, "loss_rpn_box_reg": 1, "loss_classifier": 2, "loss_box_reg": 2, "loss_mask": 3}
"""Term of an R-CNN's loss -> which of the counts in `Detection.shares` it is a mean over."""


def meet_(network: Any, images: Sequence[Tensor]) -> tuple[int, int]:
    """Tell a detector which images of a batch this process has, and height and width of the batch, which are returned.

    Every process must call this.
    """
    if world() == 1:
        return 0, 0
    sizes = [image.shape[1:] for image in images] or [(0, 0)]
    found = gathered((len(images), max(h for h, _ in sizes), max(w for _, w in sizes)))
    for part in ("rpn", "roi_heads"):
        if hasattr(network, part):
            getattr(network, part).fg_bg_sampler.first = sum(n for n, _, _ in found[: rank()])
    # 128: the coarsest map of a pyramid must have a pixel where no process has an image.
    network.transform.at_least = tuple(max(size) for size in zip(*(size for _, *size in found), strict=True))
    height, width = network.transform.at_least
    return max(128, height), max(128, width)


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
