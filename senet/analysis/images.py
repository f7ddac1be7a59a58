"""Choose, load and show the images of an analysis."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from senet.data import ObjectSplit, Part, Split
from senet.data.images import moments
from senet.data.objects import SIZES
from senet.errors import ConfigError
from senet.initialization import stream
from senet.progress import Bar
from senet.recipes.recipe import DataRecipe

Keys = list[tuple[int, list[int]]]

BY = ("class", "size")


def grouped(part: Part, by: str = "class") -> tuple[tuple[str, ...], Tensor]:
    """What gates are compared by: the names of K groups of images, and which ones each image is in.

    Images with a class are in the group of that class, (n,). Images with objects are in the group of each class, or of
    each size as COCO calls it, that one of their objects has, (n, K) bool; crowds do not count.

    Raises:
        ConfigError: By size, and the images have no objects.
    """
    split = part.split
    if not isinstance(split, ObjectSplit):
        if by != "class":
            raise ConfigError(f"--by: {by!r} is that of objects, and {part.words} have none; expected: class")
        return part.classes, split.targets
    names = part.classes if by == "class" else tuple(f"{size} objects" for size in SIZES)
    found = torch.zeros(len(split), len(names), dtype=torch.bool, device="cpu")
    for i, o in enumerate(split.objects):
        if by == "class":
            found[i, o.classes[~o.crowd]] = True
        else:
            areas = o.areas[~o.crowd]
            for k, (low, high) in enumerate(SIZES.values()):
                found[i, k] = bool(((areas >= low) & (areas <= high)).any())
    return names, found


def mixed(groups: Tensor, per_group: int, batch_size: int) -> Keys:
    """List the keys of shuffled batches.

    Args:
        groups: The groups of the images, from `grouped`.
        per_group: Number of images of each group, the first ones; 0 for all.
        batch_size: Images in a batch.
    """
    wanted = torch.arange(len(groups), device="cpu")
    if per_group and groups.dim() == 2:
        wanted = torch.cat([member.nonzero()[:per_group, 0] for member in groups.T]).unique()
    elif per_group:
        wanted = torch.cat([(groups == k).nonzero()[:per_group, 0] for k in groups.unique()])
    order = torch.randperm(len(wanted), generator=stream(0, "analyze"), device="cpu")
    return [(0, part.tolist()) for part in wanted[order].split(batch_size)]


def load(
    split: Split, keys: Keys, device: torch.device, *, groups: Tensor | None = None, bar: str | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the images as a network, or the trunk of a detector, takes them, their groups and their indices.

    Args:
        split: The images.
        keys: The batches, from `mixed`.
        device: Where the images go.
        groups: From `grouped`; None for the classes of images that have one.
        bar: Label of a progress bar; None for no bar.
    """
    loader = DataLoader(split, sampler=keys, batch_size=None, num_workers=split.workers)  # type: ignore[arg-type]
    for batch in Bar(loader, desc=bar, unit="batch", show=bar is not None):
        images, classes = split.prepare(batch, device)
        if isinstance(images, list):
            from senet.detection.build import batch_of

            images = batch_of(images)
        yield images, classes if groups is None else groups[batch.indices], batch.indices


def pixels(split: Split, recipe: DataRecipe, index: int) -> Tensor:
    """Return one image as the network gets it, before normalisation: (C, H, W) uint8."""
    images, _ = split.prepare(split[(0, [index])], torch.device("cpu"))
    mean, std = moments(recipe.mean, recipe.std, images[0].device)
    return (images[0] * std + mean).round().clamp(0, 255).byte()
