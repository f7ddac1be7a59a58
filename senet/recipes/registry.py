"""Recipes by name, from the files that `FILES` lists, and the recipe that a data set gets when none is named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from senet.config import UnitConfig, named_values
from senet.errors import unknown
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net
from senet.recipes.recipe import Recipe

FILES = ("digits", "cifar", "preact", "wrn", "shake", "student")
FILES += ("imagenet", "mobile", "places", "senet154", "folder")
"""The recipe files, in the order of `recipes()`."""


@cache
def recipes() -> dict[str, Recipe]:
    """Every named recipe: a `Recipe` in a recipe file is one of that variable's name."""
    return named_values("senet.recipes", FILES, Recipe)


def get_recipe(name: str) -> Recipe:
    """A recipe by name; ConfigError for an unknown one."""
    if name not in recipes():
        raise unknown("recipe", name, recipes())
    return recipes()[name]


def recipe_for(data: str, *, recipe: str = "", model: str = "") -> Recipe:
    """The recipe for a data set.

    data: "digits", "cifar10", "cifar100" or a folder's path.
    recipe: by name; empty for the data set's own, where a folder's is "folder" unless the network is one for CIFAR.
    model: the network's name; empty for the recipe's own.

    Raises ConfigError for an unknown recipe or network.
    """
    name = canonical_name(model) if model else ""
    if not recipe:
        recipe = data if data in ("digits", "cifar10", "cifar100") else "folder"
        if recipe == "folder" and name and get_net(name).image_size <= 64:
            recipe = "cifar10"
    base = get_recipe(recipe)
    base = replace(base, data=replace(base.data, name=data))
    if not name or name == base.name:
        return base
    net = get_net(name)
    # A recipe may speak of the unit, as the ablations do of biases; another SE network gets the same one.
    if net.se is not None and base.model.se is not None:
        net = replace(net, se=base.model.se)
    return replace(base, name=name, model=net)


def with_unit(net: Net, kind: str) -> Net:
    """The network with another attention unit by its kind, "none" for the plain twin; "" leaves it.

    Raises ConfigError for an unknown kind.
    """
    if not kind:
        return net
    if kind in ("none", "null"):
        return replace(net, se=None)
    if kind not in UnitConfig.kinds:
        raise unknown("model.se", kind, ["none", *UnitConfig.kinds])
    if net.se is not None and net.se.kind == kind:
        return net
    return replace(net, se=UnitConfig.kinds[kind]())


def labelled(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with another attention unit, and a name that says so: "resnet20+eca"."""
    net = with_unit(recipe.model, kind)
    return recipe if net == recipe.model else replace(recipe, model=net, name=f"{recipe.name}+{kind}")
