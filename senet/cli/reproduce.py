"""`senet reproduce`: a table or figure of the paper, run on the data and in the time that there are."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from senet.cli import training
from senet.cli.output import table
from senet.cli.parse import Line, Parser, read_list, value_at
from senet.cli.training_options import COMMON, check_resume, device_options, run_options
from senet.config import override
from senet.errors import ConfigError
from senet.experiments.change import changed, on_data, shortened, with_network, with_rows
from senet.experiments.differs import differs
from senet.experiments.experiment import Experiment, counted_seeds
from senet.paper.registry import GROUPS, get_targets, targets
from senet.recipes.effects import check_effects
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.recipes.registry import from_scratch
from senet.recipes.scaling import scaled

DESCRIPTION = """Run a table or figure of the paper: all its rows as fair twins, over several seeds, beside the paper's
own figures.

TARGETs: {targets}.
Without --data, --epochs and the like it is the paper's experiment, whole. On other images, in fewer epochs or at
another size it is a smaller experiment of the same kind, and the result says what differs. --budget 2h chooses the
epochs. Before anything is trained the plan is printed with the time that it will take; --plan stops there. The folder
holds all: called again, finished runs are kept, interrupted ones continue exactly where they were, and seeds, rows or
targets are added; --resume FOLDER does so too, and needs no other options but --seeds, --jobs and --devices to change
them. Fields of data, optim, schedule and train can be set as in `senet train`; with --batch-size or --accumulate the
learning rate is scaled in proportion, unless it is set too."""

EXAMPLES = (
    "senet reproduce table4 --plan",
    "senet reproduce table4 --rows SE-ResNet-110 --budget 2h",
    "senet reproduce ablations --data cifar10 --epochs 10",
)


@dataclass(frozen=True)
class Protocol:
    """The part of a recipe that all rows of a target share, whose fields are options."""

    data: DataRecipe
    optim: OptimRecipe
    schedule: ScheduleRecipe
    train: TrainRecipe


def run(argv: list[str]) -> int:
    """The command."""
    parser = _parser()
    line = parser.read(argv)
    if "resume" in line.given:
        return training.resume(**check_resume(line))
    if not line.words:
        print(_listing())
        return 0
    line.assignments += _subset(line)
    command = shlex.join(["senet", "reproduce", *(word for word in argv if word != "--plan")])
    seeds_now = counted_seeds(line.config.train.seed, line["seeds"])
    originals = {target.name: target for target in get_targets(tuple(line.words))}
    notes: dict[str, None] = {}
    experiments = []
    for experiment in _on_data(line):
        ours = with_network(changed(experiment, lambda recipe: _changed(recipe, line, notes)), line["network"])
        ours = changed(ours, lambda recipe: training.started(recipe, line))
        lines = differs(originals[ours.name], ours)
        experiments.append(replace(ours, seeds=seeds_now, differs=lines, budget=line["budget"], commands=(command,)))
    data = line.config.data
    name = "-".join(line.words) + (f"-{data.label}" if data.name != "imagenet" else "")
    folder = Path(line["out"]).expanduser() if line["out"] else Path("runs") / f"reproduce-{name}"
    return training.train_experiments(experiments, folder, line, originals=originals, notes=list(notes))


def _parser() -> Parser:
    description = DESCRIPTION.format(targets=", ".join([*targets(), *GROUPS]))
    parser = Parser("reproduce", "TARGET...", description, base=_protocol, examples=EXAMPLES, common=COMMON)
    parser.word("TARGET", help="tables and figures of the paper", count="*")
    parser.option("network", metavar="NAME", help="plain network into which each row's unit is put")
    parser.option("rows", metavar="NAMES", help="some rows alone, by name or by network, with commas")
    parser.option("seeds", type=int, default=3, metavar="N", help="runs of each row")
    parser.option("subset", type=float, default=1.0, metavar="PART", help="of the training images, class by class")
    run_options(parser, "by default runs/reproduce-TARGET-DATA")
    device_options(parser, nodes=False)
    return parser


def _protocol(line: Line) -> Protocol | None:
    """The part of the first row's recipe whose fields can be set."""
    is_help = "TARGET" not in line.values
    if "resume" in line.given or not (is_help or line.words or line.fields):
        return None
    recipe = next(iter(_on_data(line)[0].trained.values()))
    return Protocol(recipe.data, recipe.optim, recipe.schedule, recipe.train)


def _on_data(line: Line) -> list[Experiment]:
    """The rows of the targets that the line names, or of a first one for help, on its images."""
    data, size = line.field("data", "data.name", "name") or "", line.field("image_size", "data.image_size") or ""
    rows = read_list(line["rows"])
    pixels = int(size) if size.isdigit() else 0
    wanted = get_targets(tuple(line.words) or ("table4",))
    return [on_data(with_rows(target, rows), data, pixels) for target in wanted]


def _subset(line: Line) -> list[str]:
    """`--subset` as an assignment."""
    if line["subset"] == 1.0:
        return []
    if "data.train_fraction" in line.named:
        raise ConfigError("--subset: is --data.train_fraction by another name; give one of them")
    return [f"data.train_fraction={line['subset']}"]


def _changed(recipe: Recipe, line: Line, notes: dict[str, None]) -> Recipe:
    """A row's recipe with the fields of the line, and what follows from them; notes of changed rates are added."""
    named = {path: value_at(line.config, path) for path in line.named}
    if "optim.lr" not in named:
        batch = named.get("data.batch_size", recipe.data.batch_size)
        recipe, note = scaled(recipe, batch, named.get("train.accumulate", recipe.train.accumulate))
        notes.update({note: None} if note else {})
    recipe = shortened(recipe, named.get("train.epochs", recipe.train.epochs))
    recipe = override(recipe, *line.assignments)
    check_effects(recipe, line.named)
    return replace(recipe, model=from_scratch(recipe.model, recipe.train.weights))


def _listing() -> str:
    rows = [("target", "what", "rows", "the paper's run")]
    rows += [(t.name, t.title, str(len(t.rows)), t.paper_run) for t in targets().values()]
    groups = "\n".join(f"{name}: {', '.join(members)}" for name, members in GROUPS.items())
    hint = "senet reproduce TARGET --plan prints what would be run, and how long it takes here"
    return f"{table(rows, left=(0, 1, 3))}\n{groups}\n\n{hint}"
