"""Open the images that a checkpoint is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from senet.data import Data, open_data
from senet.data.images import BUILT_IN
from senet.errors import DataError
from senet.evaluation.crops import Views
from senet.recipes.recipe import DataRecipe
from senet.weights.ilsvrc import named


def recipe_for_views(recipe: DataRecipe, views: Views | None) -> DataRecipe:
    """Return the data recipe for these views, which are cut from whole files and not from squares kept in memory."""
    if views is None or recipe.name in BUILT_IN or not recipe.is_in_memory:
        return recipe
    return replace(recipe, in_memory="no", resize=recipe.image_size)


def open_images(recipe: DataRecipe, seed: int, classes: Sequence[str], *, progress: bool = True) -> Data:
    """Open a data set and check that its classes are the network's.

    Args:
        recipe: The images.
        seed: Seed of the order, of the recipe's training.
        classes: Names of the network's outputs, in words or as ILSVRC's synsets.
        progress: Whether to show a bar.

    Raises:
        DataError: If the images cannot be read, or have other classes.
    """
    data = open_data(recipe, seed, progress=progress)
    have, want = named(classes), named(data.classes)
    if len(have) != len(want):
        differ = f"the checkpoint has {len(have)} and the images have {len(want)}"
    else:
        pairs = enumerate(zip(have, want, strict=True))
        differ = next(
            (f"class {i} is {a!r} in the checkpoint and {b!r} in the images" for i, (a, b) in pairs if a != b), ""
        )
    if differ:
        raise DataError(f"data.name: {recipe.name!r} has other classes: {differ}")
    return data
