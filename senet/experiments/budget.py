"""The epochs that fit into a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from senet.errors import ConfigError
from senet.experiments.change import changed
from senet.experiments.experiment import Experiment, run_name
from senet.experiments.plan import Plan
from senet.progress import span
from senet.recipes.recipe import Recipe

STARTING = 8.0
"""Seconds that a run takes to begin."""

Clock = Callable[[Recipe], float]
"""Seconds of an epoch of a recipe, with its evaluation."""

Shorten = Callable[[Recipe, int], Recipe]
"""The recipe with another number of epochs."""


def read_span(text: str) -> float:
    """Seconds of a time such as 90s, 30m, 2h or 1d; ConfigError for another text."""
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    try:
        value = float(number) * (unit or 0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--budget: {text!r} is not a time; expected: for example 90s, 30m, 2h or 1d")
    return value


def distinct_recipes(experiments: Sequence[Experiment]) -> dict[str, Recipe]:
    """The recipes of all rows, each once, by `run_name(recipe, 0)`."""
    return {run_name(recipe, 0): recipe for experiment in experiments for recipe in experiment.trained.values()}


def run_seconds(epoch: float, epochs: int) -> float:
    """Seconds of a run, from those of an epoch."""
    return STARTING + epoch * epochs


def within(
    experiments: Sequence[Experiment], clock: Clock, budget: float, jobs: int, shorten: Shorten
) -> list[Experiment]:
    """The experiments with as many epochs as fit, each row the same share of its own, at most all.

    Args:
        experiments: Of equal seeds.
        clock: Seconds of an epoch of a recipe.
        budget: Seconds for all rows and seeds.
        jobs: Runs side by side.
        shorten: Gives a recipe with fewer epochs.

    Raises:
        ConfigError: Not even one epoch of each row fits.
    """
    costs = [(recipe, clock(recipe)) for recipe in distinct_recipes(experiments).values()]
    seeds, share = len(experiments[0].seeds), 1.0

    def epochs(recipe: Recipe) -> int:
        return max(1, int(recipe.train.epochs * share))

    def needed() -> float:
        return sum(run_seconds(seconds, epochs(recipe)) for recipe, seconds in costs) * seeds / jobs

    while needed() > budget:
        if all(epochs(recipe) == 1 for recipe, _ in costs):
            raise ConfigError(
                f"--budget: one epoch of all rows and seeds takes about {span(needed())}; "
                "allow more time, or train less: --rows, --seeds, --subset, --image-size"
            )
        share *= 0.99
    return [changed(e, lambda recipe: shorten(recipe, epochs(recipe))) for e in experiments]


def as_before(experiments: Sequence[Experiment], plan: Plan, shorten: Shorten) -> list[Experiment] | None:
    """The experiments with the epochs that the same budget chose before for the same rows; None where it did not.

    A new measurement of the time would choose other epochs, and no finished run would count.

    Args:
        experiments: With their budgets in words.
        plan: Of the folder.
        shorten: Gives a recipe with fewer epochs.
    """
    found = []
    for experiment in experiments:
        before = plan.find(experiment.name)
        if before is None or before.budget != experiment.budget:
            return None
        epochs = {name: recipe.train.epochs for name, recipe in before.trained.items()}
        rows = tuple(
            replace(row, recipe=shorten(row.recipe, epochs[row.name])) if row.recipe and row.name in epochs else row
            for row in experiment.rows
        )
        now = replace(experiment, rows=rows)
        if not distinct_recipes([now]).keys() <= distinct_recipes([before]).keys():
            return None
        found.append(now)
    return found
