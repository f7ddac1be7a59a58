"""Average a network's answers over several views of an image: crops, mirrors, scales.

Shapes: n images of a batch, V views of each, m views of one shape, C channels, S pixels a side, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from senet.data import Split, normalise
from senet.errors import ConfigError, DataError, unknown
from senet.outputs import logits_of
from senet.processes import rank, share, world
from senet.recipes.recipe import MOST_PIXELS

CROPS = (1, 10, 12)


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of an image, and what is averaged over them.

    Attributes:
        crops: Crops of S x S pixels at each scale. 1: the centre. 10: corners, centre and their mirrors
            (arXiv:1512.03385, section 4.1). 12: these, and the whole image resized to S x S and its mirror, as in
            GoogLeNet (arXiv:1409.4842, section 7).
        flip: Whether to add mirrors; 10 and 12 crops have them already.
        scales: Shorter sides in pixels; (): that of the single crop.
        whole: Whether to use the whole image at each scale instead of crops. The network must accept any size.
        average: "probabilities" or "logits".

    Raises:
        ConfigError: For another number of crops, sides below 1 or repeated, and options that exclude each other.

    >>> Views(crops=10, scales=(256, 320)).count
    20
    """

    crops: int = 1
    flip: bool = False
    scales: tuple[int, ...] = ()
    whole: bool = False
    average: Literal["probabilities", "logits"] = "probabilities"

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise unknown("crops", self.crops, CROPS)
        if self.average not in ("probabilities", "logits"):
            raise unknown("average", self.average, ("probabilities", "logits"))
        if self.flip and self.crops > 1:
            raise ConfigError(f"flip: has no effect with crops={self.crops}, which include the mirrors")
        if self.whole and self.crops > 1:
            raise ConfigError(f"whole: excludes crops={self.crops}")
        if not all(1 <= side <= MOST_PIXELS for side in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ConfigError(f"scales: {self.scales!r}; expected: different numbers of pixels, 1 to {MOST_PIXELS:,}")

    @property
    def count(self) -> int:
        """V, the number of views of an image."""
        return self.crops * (2 if self.flip else 1) * max(len(self.scales), 1)

    def __str__(self) -> str:
        """Return the views in words.

        >>> print(Views(flip=True, scales=(256, 320)))
        1 crop, mirrored, scales 256, 320
        """
        crops = "whole image" if self.whole else f"{self.crops} crop{'s' if self.crops > 1 else ''}"
        several = "s" if len(self.scales) > 1 else ""
        scales = f", scale{several} {', '.join(map(str, self.scales))}" if self.scales else ""
        average = ", logits averaged" if self.average == "logits" else ""
        return f"{crops}{', mirrored' if self.flip else ''}{scales}{average}"

    def by_scale(self) -> list[Views]:
        """Split into one `Views` per scale."""
        return [replace(self, scales=(side,)) for side in self.scales] or [self]

    def sides(self, images: Split) -> tuple[int, ...]:
        """Return the shorter sides. ConfigError if crops do not fit, or are all the same."""
        size, sides = images.recipe.image_size, self.scales or (images.side,)
        if self.whole:
            return sides
        if min(sides) < size:
            raise ConfigError(f"scales: {min(sides)} is smaller than the crop, image_size={size}")
        if self.crops > 1 and set(sides) == {size}:
            raise ConfigError(
                f"scales: at a shorter side of {size} all crops of {size} pixels are the same; expected: a larger one, "
                f"such as {round(size * 8 / 7)}"
            )
        return sides

    def cut(self, images: Split, index: int) -> list[Tensor]:
        """Return the V views of one image, uint8 `(C, h, w)` each. DataError if it cannot be read."""
        size, sides = images.recipe.image_size, self.sides(images)
        scaled = images.at_sizes(index, [*sides, (size, size)] if self.crops == 12 else sides)
        squeezed = [scaled.pop()] if self.crops == 12 else []
        views: list[Tensor] = []
        for image in scaled:
            one = [image] if self.whole else [_centre(image, size)]
            if self.crops > 1:
                one = [*_corners(image, size), *one, *squeezed]
            views += [*one, *(v.flip(2) for v in one)] if self.flip or self.crops > 1 else one
        return views

    def merge(self, logits: Tensor) -> Tensor:
        """Average over the views, `(n, V, K) -> (n, K)`: logits whose softmax is the mean of the probabilities."""
        if logits.shape[1] == 1:
            return logits[:, 0]
        if self.average == "logits":
            return logits.mean(1)
        return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


def _centre(image: Tensor, size: int) -> Tensor:
    _, height, width = image.shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[:, top : top + size, left : left + size]


def _corners(image: Tensor, size: int) -> list[Tensor]:
    """Upper left, upper right, lower left, lower right."""
    _, height, width = image.shape
    return [image[:, top : top + size, left : left + size] for top in (0, height - size) for left in (0, width - size)]


class Group(NamedTuple):
    """The views of one shape in a batch.

    Attributes:
        pictures: (m, C, h, w) uint8.
        rows: (m,) int64, the image of each.
        columns: (m,) int64, which view of it.
    """

    pictures: Tensor
    rows: Tensor
    columns: Tensor


class Batch(NamedTuple):
    """What a loader returns.

    Attributes:
        indices: (n,) int64.
        groups: The views by shape.
        skipped: A line for each image that could not be read.
    """

    indices: Tensor
    groups: list[Group]
    skipped: list[str]


class Viewed(Dataset[Batch]):
    """A data set of batches of views. ConfigError if the views do not fit the images."""

    def __init__(self, images: Split, views: Views) -> None:
        views.sides(images)
        self.images, self.views = images, views

    def __len__(self) -> int:
        return len(self.images)

    def order(self, batch_size: int) -> list[list[int]]:
        """Return this process's keys in order: indices of images with at most `batch_size` views together, or one."""
        n = max(1, batch_size // self.views.count)
        batches = torch.arange(len(self), device="cpu").split(n)
        return [batch[share(len(batch), rank(), world())].tolist() for batch in batches]

    def __getitem__(self, key: list[int]) -> Batch:
        """Cut the views of these images; runs in a worker process."""
        kept: list[int] = []
        skipped: list[str] = []
        shapes: dict[torch.Size, list[tuple[Tensor, int, int]]] = {}
        for index in key:
            try:
                views = self.views.cut(self.images, index)
            except DataError as error:
                skipped.append(str(error))
                continue
            for column, view in enumerate(views):
                shapes.setdefault(view.shape, []).append((view, len(kept), column))
            kept.append(index)
        groups = []
        for found in shapes.values():
            pictures, rows, columns = zip(*found, strict=True)
            groups.append(
                Group(torch.stack(pictures), torch.tensor(rows, device="cpu"), torch.tensor(columns, device="cpu"))
            )
        return Batch(torch.tensor(kept, dtype=torch.int64, device="cpu"), groups, skipped)

    def check(self, batch: Batch) -> None:
        """Record images that could not be read; DataError unless the recipe allows skipping them."""
        if batch.skipped and self.images.recipe.on_bad_image == "error":
            raise DataError(batch.skipped[0])
        self.images.skipped.extend(line for line in batch.skipped if line not in self.images.skipped)

    def answer(self, model: nn.Module, batch: Batch, batch_size: int, device: torch.device) -> Tensor:
        """Return the network's answers, averaged over the views: `(n, K)` float32."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for group in batch.groups:
            for picture, row, column in zip(*(t.split(batch_size) for t in group), strict=True):
                parts.append((logits_of(model(self._normalise(picture.to(device)))).float(), row, column))
        first = parts[0][0]
        logits = first.new_empty(len(batch.indices), self.views.count, first.shape[1])
        for found, row, column in parts:
            logits[row.to(device), column.to(device)] = found
        return self.views.merge(logits)

    def _normalise(self, pictures: Tensor) -> Tensor:
        return normalise(pictures, self.images.recipe).contiguous(memory_format=torch.channels_last)
