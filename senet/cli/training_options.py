"""The options that the commands which train share."""

from __future__ import annotations

from pathlib import Path

from senet.cli.parse import Line, Parser
from senet.errors import ConfigError
from senet.recipes.recipe import Recipe
from senet.recipes.registry import get_recipe, recipe_for, recipes

COMMON = ("data.name", "data.image_size", "data.batch_size", "train.epochs", "optim.lr", "train.seed")
COMMON += ("train.precision", "train.fused", "train.device", "train.threads")
"""The fields that the short help lists."""


def network_options(parser: Parser) -> None:
    """What `train` and `compare` share."""
    parser.option("recipe", metavar="NAME", help=f"{', '.join(recipes())}; by default the data set's own")
    parser.option("se", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")


def run_options(parser: Parser, out: str = "the folder; by default a new one in runs/") -> None:
    """What `train`, `compare` and `reproduce` share; `out`: the help of `--out`."""
    parser.option("budget", metavar="TIME", help="30m, 2h, 1d: as many epochs as fit, at most the recipe's")
    parser.option("jobs", type=int, default=0, low=0, metavar="N", help="runs side by side; 0: one per GPU, or one")
    parser.switch("plan", help="print what would be trained, and how long it would take")
    parser.option("out", metavar="FOLDER", help=out)
    parser.switch("json", help="print the result as JSON, and progress on standard error")
    parser.option("resume", metavar="FOLDER", help="continue the run or the experiment in this folder")


def check_resume(line: Line) -> tuple[Path, int, int]:
    """The folder to continue with, and the numbers of seeds and jobs from now on, 0 where they are not given.

    Raises:
        ConfigError: a number below 1, or other options beside it.
    """
    others = line.beside("resume", "json", "seeds", "jobs")
    if others:
        raise ConfigError(f"--resume: takes no other options but --seeds and --jobs, not {others[0]}")
    seeds, jobs = (line[name] if name in line.given else 0 for name in ("seeds", "jobs"))
    for name, number in (("seeds", seeds), ("jobs", jobs)):
        if name in line.given and number < 1:
            raise ConfigError(f"--{name}: {number} is too small; expected: 1 or more")
    return Path(line["resume"]).expanduser(), seeds, jobs


def chosen_recipe(line: Line, model: str) -> Recipe:
    """The recipe for a network ("" for the recipe's own), as `--recipe` and `--data` say."""
    own = get_recipe(line["recipe"]).data.name if line["recipe"] else "digits"
    return recipe_for(line.field("data", "data.name", "name") or own, recipe=line["recipe"], model=model)
