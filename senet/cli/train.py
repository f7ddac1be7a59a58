"""`senet train`: one network, or with none named a plain network and its SE twin; or go on with an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path

from senet.cli import options
from senet.cli.compare import announce
from senet.errors import ConfigError
from senet.files import free_name
from senet.models.registry import nets
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for, recipes

DESCRIPTION = """Train a network and leave a run folder with checkpoints, metrics and curves.

Without MODEL: the recipe's SE network and its plain twin, as a controlled pair. Every field of the recipe below can be
set, by its path or by the end of it: --optim.lr 0.05 or --lr 0.05. `--data X` is short for --data.name X, and
`--se eca` chooses the attention unit (se, no_squeeze, eca, shared, none)."""


def run(argv: list[str]) -> int:
    """The command."""
    words, rest = options.leading(argv)
    if len(words) > 1:
        raise ConfigError(f"one network at a time; for several: senet compare {' '.join(words)}")
    base = base_recipe(words, rest)
    parser = options.Parser("train", "[MODEL]", DESCRIPTION)
    parser.add_argument("MODEL", nargs="?", default="", help="name of the network, see: senet models")
    common_options(parser)
    parser.option("config", default="", metavar="FILE", help="a recipe.yaml of another run, instead of --recipe")
    parser.option("resume", default="", metavar="FOLDER", help="go on with the run, or comparison, in this folder")
    options.add_fields(parser, base)
    found = parser.read([*words, *rest], base)
    if found["resume"]:
        if len(argv) > (1 if "=" in argv[0] else 2) + found["json"]:
            raise ConfigError("--resume: takes no other options, the run keeps its recipe")
        return resume(Path(found["resume"]), found["json"])
    recipe = options.apply(base, found["fields"])
    if not words and not found["config"]:
        return pair(recipe, found)

    from senet.data import open_data
    from senet.training.run import train

    folder = Path(found["out"]) if found["out"] else free_name(Path("runs"), f"{recipe.name}-{data_label(recipe)}")
    announce(recipe.name, recipe)
    data = open_data(recipe.data, recipe.train.seed, progress=True)
    print(data.source)
    finish(train(recipe, data, folder).summary, folder, found["json"])
    return 0


def base_recipe(words: list[str], rest: list[str]) -> Recipe:
    """The recipe that the words and the options on which all others depend speak of."""
    config = options.peek(rest, "config")
    if config:
        if words or options.peek(rest, "recipe"):
            raise ConfigError("--config: holds a whole recipe; a MODEL or --recipe beside it would have no effect")
        from senet.recipes.files import read_recipe

        base = read_recipe(Path(config))
    else:
        wanted = options.peek(rest, "recipe")
        data = options.peek(rest, "data", "data.name", "name") or (_data_of(wanted) if wanted else "digits")
        base = recipe_for(data, recipe=wanted, model=words[0] if words else "")
    return options.labelled(base, options.peek(rest, "se", "model.se"))


def _data_of(recipe: str) -> str:
    from senet.recipes.registry import get_recipe

    return get_recipe(recipe).data.name


def common_options(parser: options.Parser) -> None:
    """What `train` and `compare` share."""
    parser.option("recipe", default="", metavar="NAME", help=f"{', '.join(recipes())}; by default the data set's own")
    parser.option("se", default="", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")
    parser.option("out", default="", metavar="FOLDER", help="the run folder, new or empty; by default runs/MODEL-DATA")
    parser.option("json", action="store_true", help="print the result as JSON at the end")


def data_label(recipe: Recipe) -> str:
    """The data set's name as a part of a folder's name."""
    return Path(recipe.data.name).name or "images"


def pair(recipe: Recipe, found: dict[str, object]) -> int:
    """Train the recipe's network and its plain twin."""
    from dataclasses import replace

    from senet.cli.compare import compare_and_print

    plain = recipe.name.partition("+")[0].removeprefix("se_")
    if recipe.model.se is None or plain not in nets():
        raise ConfigError("--se: a pair needs an attention unit; for the plain network alone name it as MODEL")
    twins = [replace(recipe, name=plain, model=replace(recipe.model, se=None)), recipe]
    folder = Path(str(found["out"])) if found["out"] else free_name(Path("runs"), f"pair-{data_label(recipe)}")
    return compare_and_print(twins, 1, folder, as_json=bool(found["json"]))


def resume(folder: Path, as_json: bool) -> int:
    """Go on with a run or a comparison."""
    from senet.cli.compare import compare_and_print
    from senet.recipes.files import read_recipe
    from senet.training import compare
    from senet.training.run import train

    if (folder / compare.PLAN).is_file():
        recipes, seeds = compare.read_plan(folder)
        return compare_and_print(recipes, seeds, folder, as_json=as_json, resume=True)

    from senet.data import open_data

    recipe = read_recipe(folder)
    announce(recipe.name, recipe)
    data = open_data(recipe.data, recipe.train.seed, progress=True)
    finish(train(recipe, data, folder, resume=True).summary, folder, as_json)
    return 0


def finish(summary: dict[str, object], folder: Path, as_json: bool) -> None:
    """Say what came out and what can be done with it."""
    if as_json:
        print(json.dumps(summary | {"folder": str(folder)}, indent=2))
        return
    print(
        f"\n{summary['model']}: test error {summary['top1_error']:.2f} % after {summary['epochs']} epochs, best "
        f"{summary['best_top1_error']:.2f} % in epoch {summary['best_epoch']} ({summary['test_images']:,} images)\n"
        f"curves      {folder}/curves.png\n"
        f"checkpoint  {folder}/best.safetensors\n"
        f"evaluate    senet evaluate {folder}\n"
        f"predict     senet predict {folder} IMAGE..."
    )
