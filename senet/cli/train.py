"""`senet train`: one network, or without one a plain network and its SE twin; or continue what was interrupted."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from senet.cli import training
from senet.cli.parse import Line, Parser
from senet.cli.training_options import (
    COMMON,
    check_resume,
    chosen_recipe,
    device_options,
    launched,
    network_options,
    run_options,
)
from senet.errors import ConfigError
from senet.experiments.experiment import comparison, file_name
from senet.models.registry import plain_twin
from senet.recipes.effects import check_effects
from senet.recipes.recipe import Recipe
from senet.recipes.registry import labelled
from senet.runs.recipe_file import read_recipe

DESCRIPTION = """Train a network and leave a run folder with checkpoints, metrics and curves.

Without MODEL: the recipe's SE network and its plain twin, as a controlled pair. Every field of the recipe below can be
set, by its path or by the end of it: --optim.lr 0.05 or --lr 0.05. `--data X` is short for --data.name X, and
`--se eca` chooses the attention unit (se, no_squeeze, eca, shared, none). Defaults are those of the recipe: of the
digits, or where the line names --data and --weights, of theirs."""


EXAMPLES = (
    "senet train                                      # SE-ResNet-20 and its plain twin on digits",
    "senet train timm:resnet18+se --data photos --weights pretrained",
    "senet train --resume runs/pair-digits",
)


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("train", "[MODEL]", DESCRIPTION, base=_base, examples=EXAMPLES, common=COMMON)
    parser.word(
        "MODEL",
        help="a network (senet models), timm:NAME, torchvision:NAME, FILE.py:FUNCTION; +se inserts units",
        count="*",
    )
    network_options(parser)
    parser.option("seeds", type=int, default=1, metavar="N", help="number of seeds of a pair, from train.seed up")
    run_options(parser)
    device_options(parser)
    parser.option("config", metavar="FILE", help="a recipe.yaml of another run, instead of --recipe", rare=True)
    line = parser.read(argv)
    if "resume" in line.given:
        return training.resume(**check_resume(line), started=lambda device: launched(["train", *argv], line, device))
    check_effects(line.config, line.named)
    recipe = training.started(line.config, line)
    notes = []
    if {"data.batch_size", "train.accumulate"} & {*line.named} and "optim.lr" not in line.named:
        notes = training.rate_note(line.base, recipe)
    is_pair = not line.words and not line["config"]
    folder = training.folder_for(line["out"], f"{'pair' if is_pair else file_name(recipe.name)}-{recipe.data.label}")
    if not is_pair:
        line.refuse(("jobs", "seeds"), "on one run")
        return training.train_one(recipe, folder, line, argv, notes=notes)
    if "nodes" in line.given:
        raise ConfigError("--nodes: is for one network; name it as MODEL, or spread a pair by --jobs and --devices")
    command = shlex.join(["senet", "train", *argv])
    pair = comparison(twins(recipe), line["seeds"], name="pair", budget=line["budget"], commands=(command,))
    return training.train_experiments([pair], folder, line, notes=notes)


def _base(line: Line) -> Recipe | None:
    """The recipe whose fields the other options set."""
    if "resume" in line.given:
        return None
    if len(line.words) > 1:
        raise ConfigError(f"one network at a time; for several: senet compare {' '.join(line.words)}")
    if not line["config"]:
        return labelled(chosen_recipe(line, "".join(line.words)), line["se"])
    if line.words or line["recipe"]:
        raise ConfigError("--config: holds a whole recipe; a MODEL or --recipe beside it would have no effect")
    return labelled(read_recipe(Path(line["config"]).expanduser()), line["se"])


def twins(recipe: Recipe) -> list[Recipe]:
    """The recipe's plain twin and itself; ConfigError where it has no unit."""
    base = recipe.name.partition("+")[0]
    plain = plain_twin(base) or base
    if recipe.model.se is None:
        raise ConfigError("--se: a pair needs an attention unit; for the plain network alone name it as MODEL")
    return [replace(recipe, name=plain, model=replace(recipe.model, se=None)), recipe]
