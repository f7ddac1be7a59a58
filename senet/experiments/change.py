"""An experiment changed: other images, another network, fewer rows or epochs. All rows change alike and stay twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from senet.errors import ConfigError, unknown
from senet.experiments.experiment import BUILT_IN, Experiment, run_name
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net
from senet.recipes.recipe import Recipe
from senet.recipes.registry import get_recipe

SMALL_IMAGE = 64
"""Pixels of a side up to which a network for ImageNet makes no sense."""


def changed(experiment: Experiment, change: Callable[[Recipe], Recipe]) -> Experiment:
    """The experiment with the recipe of each row changed."""
    rows = (row if row.recipe is None else replace(row, recipe=change(row.recipe)) for row in experiment.rows)
    return replace(experiment, rows=tuple(rows))


def with_rows(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """The experiment with these rows alone, and those they are compared with.

    Args:
        experiment: Whose rows.
        names: Of rows; or of networks, where each row has one of its own. None: all rows.

    Raises:
        ConfigError: An unknown name.
    """
    if not names:
        return experiment
    networks = {recipe.name: name for name, recipe in experiment.trained.items()}
    if len(networks) == len(experiment.trained):
        names = [networks.get(name, name) for name in names]
    for name in names:
        if name not in experiment.trained:
            raise unknown("--rows", name, list(experiment.trained), kind=f"rows of {experiment.name}")
    bases = {row.minus for row in experiment.rows if row.name in names}
    return replace(experiment, rows=tuple(row for row in experiment.rows if row.name in {*names, *bases}))


def on_data(experiment: Experiment, data: str, size: int = 0) -> Experiment:
    """The experiment on other images.

    Args:
        experiment: What is changed.
        data: Name of a data set or path of a folder; "" for the experiment's own.
        size: Pixels of a side that will be set later; 0 for the recipe's.
    """
    return changed(experiment, lambda recipe: _on_data(recipe, data, size))


def _on_data(recipe: Recipe, data: str, size: int) -> Recipe:
    if not data or data == recipe.data.name:
        return recipe
    if {data, recipe.data.name} == {"cifar10", "cifar100"}:
        return replace(recipe, data=replace(recipe.data, name=data))
    is_small = 0 < size <= SMALL_IMAGE < recipe.data.image_size
    if data in BUILT_IN or is_small:
        # Prepared as such images are; the batch size stays that of the experiment.
        own = get_recipe(data if data in BUILT_IN else "cifar10").data
        return replace(recipe, data=replace(own, name=data, batch_size=recipe.data.batch_size))
    return replace(recipe, data=replace(recipe.data, name=data))


def with_network(experiment: Experiment, network: str) -> Experiment:
    """The experiment with another network for all rows.

    Args:
        experiment: What is changed.
        network: The network that each row's unit is put into; "" for the rows' own, or for the experiment's small
            stand-in where the images are small and the rows' networks are not for them.

    Raises:
        ConfigError: No network fits the images, or two rows become the same run.
    """
    if not network:
        return changed(experiment, lambda recipe: _fit_small_images(experiment, recipe))
    name = canonical_name(network).removeprefix("se_")
    plain = replace(get_net(canonical_name(network)), se=None)
    experiment = changed(experiment, lambda recipe: _with_network(recipe, name, plain))
    rows_by_run: dict[str, str] = {}
    for row, recipe in experiment.trained.items():
        other = rows_by_run.setdefault(run_name(recipe, 0), row)
        if other != row:
            raise ConfigError(
                f"--network: with {network} for all, the rows {other!r} and {row!r} of {experiment.name} are one; "
                "choose rows with --rows"
            )
    return experiment


def _with_network(recipe: Recipe, name: str, plain: Net) -> Recipe:
    se = recipe.model.se
    return replace(recipe, name=f"se_{name}" if se else name, model=replace(plain, se=se))


def _fit_small_images(experiment: Experiment, recipe: Recipe) -> Recipe:
    size = recipe.data.image_size
    if size > SMALL_IMAGE or recipe.model.image_size <= SMALL_IMAGE:
        return recipe
    if experiment.small is None:
        raise ConfigError(
            f"--network: {experiment.name}'s networks are for images of {recipe.model.image_size} pixels and these "
            f"have {size}; name one for them, such as resnet20, and choose --rows"
        )
    return _with_network(recipe, "stand_in", experiment.small)


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with another number of epochs.

    In fewer, warm-up, the patience of a plateau and the epochs with frozen trunk or batch norm keep their share of it.
    """
    s, t = recipe.schedule, recipe.train
    part = min(1.0, epochs / t.epochs)
    patience = max(1, round(s.patience * part)) if s.kind == "plateau" else s.patience
    frozen = min(max(1, round(t.freeze_bn_epochs * part)), epochs - 1) if t.freeze_bn_epochs else 0
    trunk = epochs if t.freeze_epochs == t.epochs else min(round(t.freeze_epochs * part), epochs)
    return replace(
        recipe,
        schedule=replace(s, warmup_epochs=s.warmup_epochs * part, patience=patience),
        train=replace(t, epochs=epochs, freeze_epochs=trunk, freeze_bn_epochs=frozen),
    )
