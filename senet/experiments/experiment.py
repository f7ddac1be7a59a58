"""An experiment: which networks are trained by which recipes and seeds, and which of them are compared.

A pair, a comparison and every table and figure of the paper are such values. The rows that one comparison joins differ
in their network alone, and as a rule in one field of it, so that they are fair twins: equal images in equal order,
equal values in every weight that they share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Literal

from senet.config import to_dict
from senet.errors import ConfigError
from senet.models.net import Net
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.recipes.task import CLASSIFICATION, Task

TOP1, TOP5, AP, AP50, AP75 = "top1_error", "top5_error", "ap", "ap50", "ap75"

BUILT_IN = ("digits", "cifar10", "cifar100")
"""Data sets by name; every other name is a folder."""

MOST_SEEDS = 1_000_000
"""What more would not fit into memory."""

NEUTRAL = ("data.root", "data.workers", "data.eval_batch_size", "train.device", "train.threads")
NEUTRAL += ("train.seed", "train.channels_last", "train.save_batches", "train.logger", "train.fused")
"""Fields that change nothing but where and how fast a run is."""

SECTIONS = {"data": DataRecipe, "optim": OptimRecipe, "schedule": ScheduleRecipe, "train": TrainRecipe}
_DEFAULTS = {f"{section}.{name}": value for section, cls in SECTIONS.items() for name, value in to_dict(cls()).items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of an experiment's table.

    Attributes:
        name: The paper's word for it, or the network's name.
        recipe: How it is trained; None for a result of others, which is only printed.
        minus: Name of the row that it is compared with; "" for none.
        printed: The paper's figures in percent by measure, `TOP1` and `TOP5`, or `AP`, `AP50` and `AP75`.
        note: What a reader of the figures must know.
    """

    name: str
    recipe: Recipe | None = None
    minus: str = ""
    printed: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is trained, over which seeds, and what the paper says of it.

    Attributes:
        name: "table10", "figure4", "pair".
        title: What it is about.
        rows: In the order of the table.
        seeds: Of each row.
        paper_run: What the paper's own run needed, in words: epochs, hours, hardware.
        small: The plain network that stands in for the rows' own where images are of 64 pixels or less; each row's unit
            is put into it. None where the rows' networks are for such images already, or no other may stand in.
        crops: Sizes in pixels at which the trained network is evaluated beside its own, as in Table 8.
        shows: What a figure draws: "curves" (Figure 4), "gates" (Figures 6 and 7), "" for a table.
        shares_runs: Whether its folder may hold other experiments, with which it shares runs of equal recipes.
        differs: How it differs from the paper, one line each.
        budget: The time in the user's words that chose the epochs; "" where they were given.
        commands: The command lines that led to it, in order.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    paper_run: str = ""
    small: Net | None = None
    crops: tuple[int, ...] = ()
    shows: Literal["", "curves", "gates"] = ""
    shares_runs: bool = True
    differs: tuple[str, ...] = ()
    budget: str = ""
    commands: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({recipe.task.name for recipe in self.trained.values()}) > 1:
            raise ConfigError(f"models: of {', '.join(self.trained)} some classify, some detect; expected: one of both")
        if len(self.trained) > 1 and (early := max(r.train.early_stopping for r in self.trained.values())):
            raise ConfigError(
                f"train.early_stopping: {early} would end the rows of {self.name} after different epochs; expected: 0"
            )

    @property
    def task(self) -> Task:
        """What its networks are trained to do."""
        return next((r.task for r in self.trained.values()), CLASSIFICATION)

    def row(self, name: str) -> Row:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def trained(self) -> dict[str, Recipe]:
        """Name -> recipe of the rows that are trained."""
        return {row.name: row.recipe for row in self.rows if row.recipe is not None}

    @property
    def runs(self) -> dict[str, Recipe]:
        """Name of a run -> its recipe, seed by seed, so that an unfinished experiment is a fair comparison already.

        Rows of one recipe, in one experiment or several, are one run.
        """
        return {
            self.run_name(recipe, seed): replace(recipe, train=replace(recipe.train, seed=seed))
            for seed in self.seeds
            for recipe in self.trained.values()
        }

    def run_name(self, recipe: Recipe, seed: int) -> str:
        """The name of a run's folder, "se_resnet20-seed0"; with a digest of the recipe where runs are shared."""
        return run_name(recipe, seed) if self.shares_runs else f"{file_name(recipe.name)}-seed{seed}"


def comparison(
    recipes: Sequence[Recipe], seeds: int, *, name: str = "comparison", budget: str = "", commands: tuple[str, ...] = ()
) -> Experiment:
    """Networks trained by one recipe, each compared with the first.

    Args:
        recipes: One for each network, alike but for it.
        seeds: Number of seeds, counting up from the recipes' own.
        name: Of the experiment.
        budget: See `Experiment`; so `commands`.

    Raises:
        ConfigError: Two networks of one name, fewer than two, no seed, or recipes that differ.
    """
    names = [r.name for r in recipes]
    if len(recipes) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"models: {names!r} must be two or more networks of different names")
    first = recipes[0]
    for other in recipes[1:]:
        if replace(other, name=first.name, model=first.model) != first:
            raise ConfigError(f"{other.name} and {first.name} would be trained by different recipes")
    return Experiment(
        name=name,
        title=f"{', '.join(names[:-1])} and {names[-1]}",
        rows=tuple(Row(name=r.name, recipe=r, minus="" if r is first else first.name) for r in recipes),
        seeds=counted_seeds(first.train.seed, seeds),
        shares_runs=False,
        budget=budget,
        commands=commands,
    )


def counted_seeds(first: int, count: int) -> tuple[int, ...]:
    """`count` seeds from `first` up; ConfigError for none."""
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(f"seeds: {count!r} is out of range; expected: 1 to {MOST_SEEDS:,}")
    return tuple(range(first, first + count))


def run_name(recipe: Recipe, seed: int) -> str:
    """A run's name: its network's, a digest of all that its result depends on, and its seed.

    Fields that have their default do not count, so a field that is new in senet renames no run.
    """
    set_fields = {path: value for path, value in result_fields(recipe) if value != _DEFAULTS[path]}
    if recipe.data.name not in BUILT_IN:
        # One folder, however it is written; "cifar10/" is not the data set of that name.
        set_fields["data.name"] = os.path.join(".", os.path.normpath(recipe.data.name))
    text = json.dumps([to_dict(recipe.model), set_fields], sort_keys=True)
    return f"{file_name(recipe.name)}-{blake2b(text.encode(), digest_size=4).hexdigest()}-seed{seed}"


def file_name(name: str) -> str:
    """A network's name as a part of a file's name: no system but Unix takes the colon of "timm:resnet18"."""
    return name.replace(":", "-").replace("/", "-")


def result_fields(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Path and plain value of every field of a recipe that its result depends on, but for the network's."""
    data = recipe.data
    if data.name in BUILT_IN or data.is_in_memory == replace(data, in_memory="auto").is_in_memory:
        # Images in memory are scaled before they are cropped, files after; "auto" is what their size decides.
        recipe = replace(recipe, data=replace(data, in_memory="auto"))
    for section in SECTIONS:
        for name, value in to_dict(getattr(recipe, section)).items():
            if f"{section}.{name}" not in NEUTRAL:
                yield f"{section}.{name}", value
