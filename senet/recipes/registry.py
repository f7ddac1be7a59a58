"""Recipes by name, from the files that `FILES` lists, and the recipe that a data set gets when none is named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from senet.config import UnitConfig, named_values
from senet.errors import unknown
from senet.models.detector import DetectorNet
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net
from senet.recipes.recipe import Recipe

FILES = ("digits", "cifar", "preact", "wrn", "shake", "student")
FILES += ("imagenet", "mobile", "places", "senet154", "folder", "finetune", "coco")
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


def recipe_for(data: str, *, recipe: str = "", model: str = "", weights: str = "") -> Recipe:
    """The recipe for a data set.

    Args:
        data: "digits", "cifar10", "cifar100" or a folder's path.
        recipe: by name; empty for the data set's own, where a folder's is "folder" unless the network is one for CIFAR,
            and "boxes" for a detector.
        model: the network's name; empty for the recipe's own.
        weights: what the training starts from; a folder then gets the recipe "finetune".

    Raises:
        ConfigError: For an unknown recipe or network.
    """
    name = canonical_name(model) if model else ""
    if not recipe and name and isinstance(get_net(name), DetectorNet):
        recipe = "boxes"
    if not recipe:
        recipe = data if data in ("digits", "cifar10", "cifar100") else "folder"
        if recipe == "folder" and weights:
            recipe = "finetune"
        elif recipe == "folder" and name and get_net(name).image_size <= 64:
            recipe = "cifar10"
    base = get_recipe(recipe)
    base = replace(base, data=replace(base.data, name=data))
    net = get_net(name) if name else base.model
    if isinstance(net, DetectorNet) and base.data.labels != "classes":
        labels = "masks" if net.head == "maskrcnn" else "boxes"
        base = replace(base, data=replace(base.data, labels=labels), model=from_scratch(base.model, weights))
        net = from_scratch(net, weights)
    if not name or name == base.name:
        return base
    # A recipe may set fields of the unit, as the ablations do its biases; another SE network gets the same unit.
    if net.se is not None and base.model.se is not None and "+" not in name:
        net = replace(net, se=base.model.se)
    return replace(base, name=name, model=net)


def from_scratch(net: Net, weights: str) -> Net:
    """A detector without weights to start from: nothing of its trunk is frozen. Other networks stay as they are.

    Untrained stages cannot stay frozen, nor can norms without measured statistics.
    """
    if weights or not isinstance(net, DetectorNet):
        return net
    return replace(net, freeze_norm=False, freeze_at=0, freeze_units=True)


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
