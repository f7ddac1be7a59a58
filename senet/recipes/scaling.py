"""The learning rate for steps of another number of images than a recipe's: in proportion (arXiv:1706.02677, 2.1)."""

from __future__ import annotations

from dataclasses import replace

from senet.recipes.recipe import Recipe


def scaled(recipe: Recipe, batch_size: int, accumulate: int = 1) -> tuple[Recipe, str]:
    """The recipe with steps of `accumulate` batches of `batch_size` images and the rate that goes with them.

    Gives also a line that says so, "" where the steps have as many images as before.

    >>> from senet.recipes.registry import get_recipe
    >>> scaled(get_recipe("imagenet"), 256)[1]
    'learning rate 0.6 for batches of 1024 becomes 0.15 for batches of 256, in proportion'
    >>> scaled(get_recipe("imagenet"), 256, accumulate=4)[1]
    ''
    """
    before, now = recipe.data.batch_size * recipe.train.accumulate, batch_size * accumulate
    lr = recipe.optim.lr * now / before
    new = replace(
        recipe,
        data=replace(recipe.data, batch_size=batch_size),
        optim=replace(recipe.optim, lr=lr),
        train=replace(recipe.train, accumulate=accumulate),
    )
    if now == before:
        return new, ""
    steps = f"{now}" if accumulate == 1 else f"{accumulate} x {batch_size}"
    said = f"learning rate {recipe.optim.lr:g} for batches of {before} becomes {lr:g} for batches of {steps}"
    return new, f"{said}, in proportion"
