"""What the commands that train have in common: running, going on, and where the progress is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from senet.cli import show
from senet.cli.report import write_comparison, write_run
from senet.files import free_name
from senet.recipes.files import read_recipe
from senet.recipes.recipe import DataRecipe, Recipe
from senet.recipes.scaling import scaled


def folder_for(out: str, name: str) -> Path:
    """The folder that was asked for, or a free one in runs/."""
    return Path(out).expanduser() if out else free_name(Path("runs"), name)


def run_one(recipe: Recipe, folder: Path, *, as_json: bool, resume: bool = False) -> int:
    """Train one network, say what came out."""
    from senet.data import open_data
    from senet.training.run import train

    with progress(as_json):
        show.announce(recipe.name, recipe)
        data = open_data(recipe.data, recipe.train.seed, progress=True)
        print(data.source)
        summary = train(recipe, data, folder, resume=resume).summary
        report = write_run(folder)
    if as_json:
        print(json.dumps(summary | {"folder": str(folder), "report": str(report)}, indent=2))
    else:
        show.print_summary(summary, folder)
    return 0


def run_many(recipes: list[Recipe], seeds: int, folder: Path, *, as_json: bool, resume: bool = False) -> int:
    """Train networks alike, print the comparison."""
    from senet.data import Data, open_data
    from senet.training.compare import compare

    def opened(recipe: DataRecipe, seed: int) -> Data:
        return open_data(recipe, seed, progress=True)

    with progress(as_json):
        found = compare(recipes, seeds, opened, folder, resume=resume, announce=show.announce)
        report = write_comparison(folder)
    if as_json:
        print(json.dumps(found | {"folder": str(folder), "report": str(report)}, indent=2))
    else:
        show.print_comparison(found, folder)
    return 0


def go_on(folder: Path, *, as_json: bool) -> int:
    """Go on with the run, the comparison or the reproduction in a folder."""
    from senet.training import compare, reproduction

    if (folder / reproduction.PLAN).is_file():
        from senet.cli import reproduce

        return reproduce.go_on(folder, as_json=as_json)
    if (folder / compare.PLAN).is_file():
        recipes, seeds = compare.read_plan(folder)
        return run_many(recipes, seeds, folder, as_json=as_json, resume=True)
    return run_one(read_recipe(folder), folder, as_json=as_json, resume=True)


def note_rate(base: Recipe, recipe: Recipe, *, as_json: bool) -> None:
    """Say what the learning rate would be in proportion to another batch; it is not changed unasked."""
    wanted = scaled(base, recipe.data.batch_size)[0].optim.lr
    if wanted != recipe.optim.lr:
        with progress(as_json):
            print(
                f"note: the learning rate stays {recipe.optim.lr:g}; in proportion to the batch it would be "
                f"--lr {wanted:g} (arXiv:1706.02677)"
            )


@contextmanager
def progress(as_json: bool) -> Iterator[None]:
    """Where a program reads standard output, progress goes to standard error."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
