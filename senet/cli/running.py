"""What the commands that train have in common: running, going on, and where the progress is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import show
from senet.errors import ConfigError
from senet.files import free_name
from senet.recipes.recipe import DataRecipe, Recipe
from senet.recipes.scaling import scaled
from senet.runs.recipe_file import read_recipe

if TYPE_CHECKING:
    from senet.data import Data


def folder_for(out: str, name: str) -> Path:
    """The folder that was asked for, or a free one in runs/."""
    return Path(out).expanduser() if out else free_name(Path("runs"), name)


def run_one(recipe: Recipe, folder: Path, *, as_json: bool, resume: bool = False) -> int:
    """Train one network, say what came out."""
    from senet.report.folder import write_page
    from senet.training.run import train

    with progress(as_json):
        show.announce(recipe.name, recipe)
        data = open_images(recipe.data, recipe.train.seed)
        print(data.source)
        summary = train(recipe, data, folder, resume=resume).summary
        report = write_page(folder)
    if as_json:
        print(json.dumps(summary | {"folder": str(folder), "report": str(report)}, indent=2))
    else:
        show.print_summary(summary, folder)
    return 0


def run_many(
    recipes: list[Recipe], seeds: int, folder: Path, *, as_json: bool, jobs: int = 1, resume: bool = False
) -> int:
    """Train networks alike, print the comparison; `jobs`: runs side by side."""
    from senet.report.folder import write_page
    from senet.runs.folder import SUMMARY
    from senet.training.compare import compare, plan

    runs = plan(recipes, seeds)
    finished = [name for name in runs if (folder / name / SUMMARY).is_file()]
    # One at a time, each run has its own lines.
    say = counting(len(finished), len(runs)) if jobs > 1 else lambda name, outcome: None
    with progress(as_json):
        if resume and len(finished) == len(runs):
            print(f"{folder}: finished already; nothing to do")
        elif jobs > 1:
            fetch(r.data for r in recipes)
        found = compare(recipes, seeds, open_images, folder, jobs=jobs, resume=resume, announce=show.announce, say=say)
        report = write_page(folder)
    if as_json:
        print(json.dumps(found | {"folder": str(folder), "report": str(report)}, indent=2))
    else:
        show.print_comparison(found, folder)
    return 0


def counting(finished: int, runs: int) -> Callable[[str, str], None]:
    """Says what became of each run, by its name, and how many of all are finished."""

    def say(name: str, outcome: str) -> None:
        nonlocal finished
        finished += outcome == "done"
        print(f"[{finished} of {runs}] {name}: {outcome}", flush=True)

    return say


def default_jobs() -> int:
    """Runs side by side where none are asked for: one for each GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count())


def open_images(recipe: DataRecipe, seed: int) -> Data:
    """The images of a recipe, with a bar."""
    from senet.data import open_data

    return open_data(recipe, seed, progress=True)


def fetch(recipes: Iterable[DataRecipe]) -> None:
    """Download what is absent, once and before several processes would."""
    for name, root in dict.fromkeys((d.name, d.root) for d in recipes if d.name in ("cifar10", "cifar100")):
        open_images(DataRecipe(name=name, root=root), 0)


def go_on(folder: Path, *, as_json: bool, jobs: int = 0) -> int:
    """Go on with the run, the comparison or the reproduction in a folder; `jobs`: 0 for as many as it had.

    Raises ConfigError for `jobs` where there is one run.
    """
    from senet.training import compare, reproduction

    if (folder / reproduction.PLAN).is_file():
        from senet.cli import reproduce

        return reproduce.go_on(folder, as_json=as_json, jobs=jobs)
    if (folder / compare.PLAN).is_file():
        recipes, seeds = compare.read_plan(folder)
        jobs = jobs or compare.read_jobs(folder)
        return run_many(recipes, seeds, folder, as_json=as_json, jobs=jobs, resume=True)
    if jobs:
        raise ConfigError(f"--jobs: has no effect, {folder} is not the folder of a comparison")
    return run_one(read_recipe(folder), folder, as_json=as_json, resume=True)


def note_rate(base: Recipe, recipe: Recipe, *, as_json: bool) -> None:
    """Say what the learning rate would be in proportion to another batch; it is not changed unasked."""
    wanted = scaled(base, recipe.data.batch_size, recipe.train.accumulate)[0].optim.lr
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
