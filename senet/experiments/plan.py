"""plan.json: the experiments of a folder, complete, so that resuming them needs nothing else; and adding to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from senet.errors import RunError
from senet.experiments.differs import differs, recipe_changes
from senet.experiments.experiment import Experiment, run_name
from senet.recipes.recipe import Recipe
from senet.runs.folder import PLAN, read_value, write_value


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder is for.

    Attributes:
        experiments: In the order in which they were added; their names differ.
        jobs: Runs side by side, for a resumption.
        devices: Processes that train each run together, for a resumption.
        images: Folder that the images are in now; "" for that of the recipes.
    """

    experiments: tuple[Experiment, ...] = ()
    jobs: int = 1
    devices: int = 1
    images: str = ""

    def find(self, name: str) -> Experiment | None:
        """The experiment of that name, or None."""
        return next((e for e in self.experiments if e.name == name), None)

    @property
    def runs(self) -> dict[str, Recipe]:
        """Name of a run -> its recipe, of all experiments; a run that several share is there once."""
        return {name: recipe for experiment in self.experiments for name, recipe in experiment.runs.items()}


def read_plan(folder: Path) -> Plan:
    """The plan of an experiment's folder.

    Raises:
        RunError: There is none, it is damaged, or another version of senet wrote it.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    if (folder / "comparison.json").is_file():
        raise RunError(f"{folder}: written by senet 0.1, which this version cannot read; train again")
    if not (folder / PLAN).is_file():
        raise RunError(f"{folder}: not the folder of an experiment: it has no {PLAN}")
    return read_value(Plan, folder / PLAN)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write plan.json; RunError where it cannot be written."""
    write_value(folder / PLAN, plan)


def added_to(
    folder: Path,
    experiments: Sequence[Experiment],
    jobs: int = 1,
    devices: int = 1,
    originals: Mapping[str, Experiment] | None = None,
) -> Plan:
    """The plan of a folder with experiments added; of a folder without a plan, theirs alone. Writes nothing.

    Args:
        folder: New, or an experiment's.
        experiments: Rows, seeds and commands are added to the experiment of the same name.
        jobs: Runs side by side.
        devices: Processes that train each run together.
        originals: Name -> the paper's experiment, which gives the order of the rows and what differs.

    Raises:
        RunError: A row is in the plan already, with another recipe, so that results of two experiments would be mixed.
    """
    plan = read_plan(folder) if (folder / PLAN).is_file() else Plan()
    found = {e.name: e for e in plan.experiments}
    for new in experiments:
        old = found.get(new.name)
        try:
            found[new.name] = merged(old, new, (originals or {}).get(new.name)) if old else new
        except RunError as error:
            raise RunError(f"{folder} holds another experiment. {error}. Name another folder with --out") from None
    return replace(plan, experiments=tuple(found.values()), jobs=jobs, devices=devices)


def merged(before: Experiment, now: Experiment, original: Experiment | None = None) -> Experiment:
    """An experiment with the rows, seeds and commands of another one of the same name added.

    Args:
        before: What is in the folder.
        now: What is added.
        original: The paper's, which gives the order of the rows and what differs.

    Raises:
        RunError: A row of both has two different recipes.
    """
    for name, recipe in now.trained.items():
        old = before.trained.get(name)
        if old is not None and run_name(old, 0) != run_name(recipe, 0):
            raise RunError(f"{now.name}, {name}: {'; '.join(recipe_changes(old, recipe))}")
    if not before.shares_runs:
        # All rows of a comparison are trained alike, the new ones too.
        first = next(iter(before.trained.values()))
        for recipe in now.trained.values():
            if changes := recipe_changes(replace(first, model=recipe.model), recipe):
                raise RunError(f"{now.name}, {recipe.name}: {'; '.join(changes)}")
    rows = {row.name: row for row in (*before.rows, *now.rows)}
    order = [row.name for row in original.rows] if original else list(rows)
    sorted_rows = sorted(rows.values(), key=lambda row: order.index(row.name) if row.name in order else len(order))
    both = replace(
        now,
        rows=tuple(sorted_rows),
        seeds=tuple(sorted({*before.seeds, *now.seeds})),
        budget=now.budget or before.budget,
        commands=tuple(dict.fromkeys((*before.commands, *now.commands))),
    )
    return replace(both, differs=differs(original, both)) if original else both
