"""The learning rate for another batch size than a recipe's: in proportion (arXiv:1706.02677, section 2.1)."""

from __future__ import annotations

from dataclasses import replace

from senet.recipes.recipe import Recipe


def scaled(recipe: Recipe, batch_size: int) -> tuple[Recipe, str]:
    """The recipe with another batch size and the rate that goes with it, and a line that says so.

    >>> from senet.recipes.registry import get_recipe
    >>> scaled(get_recipe("imagenet"), 256)[1]
    'learning rate 0.6 for batches of 1024 becomes 0.15 for batches of 256, in proportion'
    """
    before = recipe.data.batch_size
    lr = recipe.optim.lr * batch_size / before
    new = replace(recipe, data=replace(recipe.data, batch_size=batch_size), optim=replace(recipe.optim, lr=lr))
    said = f"learning rate {recipe.optim.lr:g} for batches of {before} becomes {lr:g} for batches of {batch_size}"
    return new, f"{said}, in proportion"
