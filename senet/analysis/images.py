"""Choose, load and show the images of an analysis."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from senet.data import Split
from senet.data.images import moments
from senet.initialization import stream
from senet.progress import Bar
from senet.recipes.recipe import DataRecipe

Keys = list[tuple[int, list[int]]]


def mixed(split: Split, per_class: int, batch_size: int) -> Keys:
    """List the keys of shuffled batches.

    Args:
        split: The images.
        per_class: Number of images of each class, the first ones; 0 for all.
        batch_size: Images in a batch.
    """
    wanted = torch.arange(len(split), device="cpu")
    if per_class:
        wanted = torch.cat([(split.targets == k).nonzero()[:per_class, 0] for k in split.targets.unique()])
    order = torch.randperm(len(wanted), generator=stream(0, "analyze"), device="cpu")
    return [(0, part.tolist()) for part in wanted[order].split(batch_size)]


def load(
    split: Split, keys: Keys, device: torch.device, *, bar: str | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the images as a network takes them, their classes and their indices.

    Args:
        split: The images.
        keys: The batches, from `mixed`.
        device: Where the images go.
        bar: Label of a progress bar; None for no bar.
    """
    loader = DataLoader(split, sampler=keys, batch_size=None, num_workers=split.workers)  # type: ignore[arg-type]
    for batch in Bar(loader, desc=bar, unit="batch", show=bar is not None):
        yield (*split.prepare(batch, device), batch.indices)


def pixels(split: Split, recipe: DataRecipe, index: int) -> Tensor:
    """Return one image as the network gets it, before normalisation: (C, S, S) uint8."""
    images, _ = split.prepare(split[(0, [index])], torch.device("cpu"))
    mean, std = moments(recipe.mean, recipe.std, images.device)
    return (images[0] * std + mean).round().clamp(0, 255).byte()
