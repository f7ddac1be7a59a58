"""The options that the commands which train share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from senet.cli.checkpoint import add_code, use_code
from senet.cli.parse import Line, Parser
from senet.errors import ConfigError
from senet.experiments.experiment import MOST_SEEDS
from senet.foreign_models import allow_named_code
from senet.recipes.recipe import Recipe
from senet.recipes.registry import get_recipe, recipe_for

COMMON = ("data.name", "train.weights", "data.image_size", "data.batch_size", "train.epochs", "optim.lr", "train.seed")
COMMON += ("train.precision", "train.fused", "train.device")
"""The fields that the short help lists."""


def network_options(parser: Parser) -> None:
    """What `train` and `compare` share."""
    parser.option(
        "recipe",
        metavar="NAME",
        help="cifar10, imagenet, finetune, ... (docs/reference/training.md lists all); by default the data set's own",
    )
    parser.option("se", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")


def run_options(parser: Parser, out: str = "the folder; by default a new one in runs/") -> None:
    """What `train`, `compare` and `reproduce` share; `out`: the help of `--out`."""
    parser.option("budget", metavar="TIME", help="30m, 2h, 1d: as many epochs as fit, at most the recipe's")
    parser.option("jobs", type=int, default=0, low=0, metavar="N", help="runs side by side; 0: one per GPU, or one")
    parser.switch("plan", help="print what would be trained, and how long it would take")
    parser.option("out", metavar="FOLDER", help=out)
    parser.switch("json", help="print the result as JSON, and progress on standard error")
    parser.option("resume", metavar="FOLDER", help="continue the run or the experiment in this folder")
    add_code(parser)


def check_resume(line: Line) -> dict[str, Any]:
    """The arguments of `training.resume`.

    Raises:
        ConfigError: a number below 1, or other options beside it.
    """
    use_code(line)
    others = line.beside("resume", "json", "seeds", "jobs", "code", "data", "data.name")
    if others:
        raise ConfigError(f"--resume: takes no other options but --data, --seeds and --jobs, not {others[0]}")
    found = {name: line[name] if name in line.given else 0 for name in ("seeds", "jobs")}
    for name, number in found.items():
        if name in line.given and not 1 <= number <= MOST_SEEDS:
            raise ConfigError(f"--{name}: {number} is out of range; expected: 1 to {MOST_SEEDS:,}")
    images = line.field("data", "data.name") or ""
    return {"folder": Path(line["resume"]).expanduser(), "as_json": line["json"], "images": images, **found}


def chosen_recipe(line: Line, model: str) -> Recipe:
    """The recipe for a network ("" for the recipe's own), as `--recipe` and `--data` say."""
    own = get_recipe(line["recipe"]).data.name if line["recipe"] else "digits"
    data, weights = line.field("data", "data.name", "name") or own, line.field("weights", "train.weights") or ""
    allow_named_code(model)
    return recipe_for(data, recipe=line["recipe"], model=model, weights=weights)
