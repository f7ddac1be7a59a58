"""Open the images that a checkpoint is evaluated on."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch

from senet.data import Part, Split, open_part
from senet.data.folders import PartName
from senet.data.images import BUILT_IN
from senet.evaluation.classes import match_classes
from senet.evaluation.crops import Views
from senet.recipes.recipe import DataRecipe
from senet.runs.checkpoint import Checkpoint

Among = Literal["all", "present"]


def recipe_for_views(recipe: DataRecipe, views: Views | None) -> DataRecipe:
    """Return the data recipe for these views, which are cut from whole files and not from squares kept in memory."""
    if views is None or recipe.name in BUILT_IN or not recipe.is_in_memory:
        return recipe
    return replace(recipe, in_memory="no", resize=recipe.image_size)


@dataclass(frozen=True)
class Images:
    """Images that a network is evaluated on, with the numbers of its outputs as their classes.

    Attributes:
        part: What was opened.
        split: The images; their targets are indices of `classes`.
        classes: Names of the outputs that are judged, in order.
        outputs: Indices of these outputs; None for all of the network's.
        notes: Lines on how the classes were matched.
    """

    part: Part
    split: Split
    classes: tuple[str, ...]
    outputs: tuple[int, ...] | None
    notes: tuple[str, ...]


def open_images(
    recipe: DataRecipe,
    checkpoint: Checkpoint,
    *,
    part: PartName | Literal[""] = "",
    among: Among = "all",
    progress: bool = True,
) -> Images:
    """Open the images that a checkpoint is evaluated on, and match their classes to its outputs by name.

    Args:
        recipe: The images.
        checkpoint: The network, its classes, and what it was trained on.
        part: "train", "val" or "test"; "": see `open_part`.
        among: Where the images have some of the network's classes only: "all", its answer is the best of all outputs;
            "present", of the outputs of these classes.
        progress: Whether to show a bar.

    Raises:
        DataError: If the images cannot be read, or have a class that the network does not know.
    """
    found = open_part(recipe, part, trained_on=checkpoint.trained_on, progress=progress)
    outputs = match_classes(checkpoint.classes, found.classes, f"data.name: {recipe.name!r}")
    known = len(checkpoint.classes)
    notes = []
    if outputs != sorted(outputs):
        notes.append("classes are matched by name: the network has them in another order")
    if len(outputs) < known:
        how = "all of them (or among these alone: --among present)" if among == "all" else "these alone"
        notes.append(f"images of {len(outputs):,} of the network's {known:,} classes; its answers are among {how}")
    split = copy(found.split)
    if among == "present" and len(outputs) < known:
        return Images(found, split, found.classes, tuple(outputs), (*found.notes, *notes))
    split.targets = torch.tensor(outputs, device="cpu")[split.targets]
    return Images(found, split, checkpoint.classes, None, (*found.notes, *notes))
