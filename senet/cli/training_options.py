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


def common_options(parser: Parser) -> None:
    """What `train` and `compare` share."""
    parser.option("recipe", metavar="NAME", help=f"{', '.join(recipes())}; by default the data set's own")
    parser.option("se", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")
    parser.option("out", metavar="FOLDER", help="the folder to write, new or empty; by default in runs/")
    parser.switch("json", help="print the result as JSON, and progress on standard error")
    parser.option("resume", metavar="FOLDER", help="continue the run or comparison in this folder")


def resume_folder(line: Line, *also: str) -> Path:
    """The folder to continue with; ConfigError for options beside it other than `also`."""
    others = line.beside("resume", "json", *also)
    if others:
        but = f" but {' and '.join(f'--{name}' for name in also)}" if also else ""
        raise ConfigError(f"--resume: takes no other options{but}, the run keeps its recipe: {others[0]}")
    return Path(line["resume"]).expanduser()


def chosen_recipe(line: Line, model: str) -> Recipe:
    """The recipe for a network ("" for the recipe's own), as `--recipe` and `--data` say."""
    own = get_recipe(line["recipe"]).data.name if line["recipe"] else "digits"
    return recipe_for(line.field("data", "data.name", "name") or own, recipe=line["recipe"], model=model)
