"""`senet train`: one network, or with none named a plain network and its SE twin; or go on with an interrupted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from senet.cli import options, running, show
from senet.cli.line import Line, common_options
from senet.errors import ConfigError
from senet.models.registry import plain_twin
from senet.recipes.recipe import Recipe
from senet.runs.recipe_file import read_recipe

DESCRIPTION = """Train a network and leave a run folder with checkpoints, metrics and curves.

Without MODEL: the recipe's SE network and its plain twin, as a controlled pair. Every field of the recipe below can be
set, by its path or by the end of it: --optim.lr 0.05 or --lr 0.05. `--data X` is short for --data.name X, and
`--se eca` chooses the attention unit (se, no_squeeze, eca, shared, none)."""


def run(argv: list[str]) -> int:
    """The command."""
    line = Line.of(argv)
    folder = None if line.asks_help else line.resume_folder()
    if folder is not None:
        return running.go_on(folder, as_json="--json" in line.options)
    if len(line.words) > 1:
        raise ConfigError(f"one network at a time; for several: senet compare {' '.join(line.words)}")
    base = options.labelled(_base(line), line.value("se", "model.se") or "")
    parser = options.Parser("train", "[MODEL]", DESCRIPTION)
    parser.add_argument("MODEL", nargs="?", default="", help="name of the network, see: senet models")
    common_options(parser)
    parser.option("config", default="", metavar="FILE", help="a recipe.yaml of another run, instead of --recipe")
    options.add_fields(parser, base)
    found = parser.read(line.argv, base)
    recipe = options.apply(base, found["fields"])
    options.check_effects(recipe, found["named"])
    if {"data.batch_size", "train.accumulate"} & {*found["named"]} and "optim.lr" not in found["named"]:
        running.note_rate(base, recipe, as_json=found["json"])
    if line.words or found["config"]:
        folder = running.folder_for(found["out"], f"{recipe.name}-{show.data_label(recipe)}")
        return running.run_one(recipe, folder, as_json=found["json"])
    folder = running.folder_for(found["out"], f"pair-{show.data_label(recipe)}")
    return running.run_many(twins(recipe), 1, folder, as_json=found["json"])


def _base(line: Line) -> Recipe:
    """The recipe that the options on which all others depend speak of."""
    config = line.value("config")
    if config is None:
        return line.recipe(line.words[0] if line.words else "")
    if line.words or line.value("recipe"):
        raise ConfigError("--config: holds a whole recipe; a MODEL or --recipe beside it would have no effect")
    return read_recipe(Path(config).expanduser())


def twins(recipe: Recipe) -> list[Recipe]:
    """The recipe's plain twin and itself; ConfigError where it has no unit."""
    base = recipe.name.partition("+")[0]
    plain = plain_twin(base) or base
    if recipe.model.se is None:
        raise ConfigError("--se: a pair needs an attention unit; for the plain network alone name it as MODEL")
    return [replace(recipe, name=plain, model=replace(recipe.model, se=None)), recipe]
