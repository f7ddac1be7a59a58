"""`senet compare`: several networks, several seeds, one recipe; a table with the paired difference."""

from __future__ import annotations

import shlex
from dataclasses import replace

from senet.cli import training
from senet.cli.parse import Line, Parser, leaves
from senet.cli.training_options import (
    COMMON,
    check_resume,
    chosen_recipe,
    device_options,
    network_options,
    run_options,
)
from senet.config import override
from senet.errors import ConfigError
from senet.experiments.experiment import comparison, file_name
from senet.recipes.effects import check_effects
from senet.recipes.recipe import Recipe
from senet.recipes.registry import labelled

DESCRIPTION = """Train networks under identical conditions and compare their errors.

For each seed all networks see the same images in the same order with the same augmentation, and start from the same
values in every weight that they share. The table gives mean and deviation over the seeds and, against the first
network, the paired difference with its 95 % confidence interval (Student's t). Fields of the recipe are set as in
`senet train`; fields of the attention unit (--se.reduction 8) go to every network that has one. With --out FOLDER of a
comparison, networks and seeds are added to it."""


EXAMPLES = (
    "senet compare resnet20 se_resnet20 --seeds 3",
    "senet compare resnet18 se_resnet18 --data photos --epochs 20 --jobs 2",
    "senet compare --resume runs/compare-resnet20-se_resnet20-digits",
)


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("compare", "MODEL MODEL...", DESCRIPTION, base=_shown, examples=EXAMPLES, common=COMMON)
    parser.word("MODEL", help="names of the networks, see: senet models", count="*")
    network_options(parser)
    parser.option("seeds", type=int, default=3, metavar="N", help="number of seeds, from train.seed up")
    run_options(parser)
    device_options(parser, nodes=False)
    line = parser.read(argv)
    if "resume" in line.given:
        return training.resume(**check_resume(line))
    check_effects(line.config, line.named)
    recipes = _started([_with_changes(base, line) for base in _bases(line)], line)
    names = "-".join(file_name(r.name) for r in recipes)
    folder = training.folder_for(line["out"], f"compare-{names}-{line.config.data.label}")
    command = shlex.join(["senet", "compare", *argv])
    experiment = comparison(recipes, line["seeds"], budget=line["budget"], commands=(command,))
    return training.train_experiments([experiment], folder, line)


def _bases(line: Line) -> list[Recipe]:
    """The recipe of each network, before options change it."""
    first, *others = [chosen_recipe(line, word) for word in line.words or [""]]
    # One recipe trains all: otherwise each network would have its own.
    return [first, *(replace(first, name=o.name, model=o.model) for o in others)]


def _started(recipes: list[Recipe], line: Line) -> list[Recipe]:
    """The recipes with what their weights decide; the images of all are prepared as the first network's weights say."""
    first, *others = [training.started(recipe, line) for recipe in recipes]
    return [first, *(replace(other, data=first.data) for other in others)]


def _shown(line: Line) -> Recipe | None:
    """The recipe whose fields can be set: of the first network with a unit."""
    if "resume" in line.given:
        return None
    if len(line.words) < 2 and "MODEL" in line.values:
        raise ConfigError("name two or more networks, for example: senet compare resnet20 se_resnet20 --seeds 3")
    bases = _bases(line)
    base = next((b for b in bases if b.model.se is not None), bases[0])
    kind = line["se"]
    if kind in ("none", "null") or (kind and base.model.se is None):
        raise ConfigError(f"--se: {kind!r} has no effect; it changes the units of the networks that have one")
    return labelled(base, kind)


def _with_changes(base: Recipe, line: Line) -> Recipe:
    """A network's recipe with the fields of the line; those of the unit where it has one."""
    recipe = labelled(base, line["se"] if base.model.se else "")
    known = dict(leaves(recipe))
    return override(recipe, *(text for text in line.assignments if text.partition("=")[0] in known))
