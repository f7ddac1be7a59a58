"""The options that the commands which train share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senet.cli.checkpoint import add_code, use_code
from senet.cli.parse import Line, Parser
from senet.errors import ConfigError
from senet.experiments.experiment import MOST_SEEDS
from senet.foreign_models import allow_named_code
from senet.processes import has_tasks, is_one_of_several
from senet.recipes.recipe import Recipe
from senet.recipes.registry import get_recipe, recipe_for

MOVED, RATE = ("data", "data.name"), ("lr", "optim.lr")
LEFT_OUT = ("skip_batches", "train.skip_batches")
"""How the fields are typed that a resumed run may change."""

MOST_DEVICES = 2**16
"""More processes than any machine, or machines than any job, has."""

COMMON = ("data.name", "train.weights", "data.image_size", "data.batch_size", "train.epochs", "optim.lr", "train.seed")
COMMON += ("train.device",)
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
    parser.option("jobs", type=int, default=0, low=0, metavar="N", help="runs side by side; 0: as GPUs allow, or one")
    parser.switch("plan", help="print what would be trained, and how long it would take")
    parser.option("out", metavar="FOLDER", help=out)
    parser.switch("json", help="print the result as JSON, and progress on standard error")
    parser.option("resume", metavar="FOLDER", help="continue the run or the experiment in this folder")
    add_code(parser)


def device_options(parser: Parser, *, nodes: bool = True) -> None:
    """On how many devices a command computes; `nodes`: whether on those of several machines."""
    how: dict[str, Any] = {"type": int, "default": 1, "low": 1, "high": MOST_DEVICES}
    parser.option("devices", "processes on this machine, one per GPU, which share each batch", metavar="N", **how)
    if nodes:
        parser.option("nodes", "machines of a SLURM job, each with so many devices", metavar="M", rare=True, **how)


def launched(argv: Sequence[str], line: Line, device: str) -> int | None:
    """Start the processes that `--devices` and `--nodes` ask for, and wait; None where this process does the work.

    Without these options, the tasks that srun started do it together.

    Args:
        argv: the words after `senet`.
        line: the command line, with the options of `device_options`.
        device: what the processes compute on.
    """
    if is_one_of_several() or has_tasks():
        # Before torch is imported: it would say that it looks for parameters without gradients, which is asked for.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_one_of_several():
        return None
    if line["devices"] * line["nodes"] == 1:
        if has_tasks():
            from senet.training.devices import join_tasks

            join_tasks()
        return None
    from senet.training.devices import launch

    return launch(argv, line["devices"], line["nodes"], device=device)


def check_resume(line: Line) -> dict[str, Any]:
    """The arguments of `training.resume`.

    Raises:
        ConfigError: a number below 1, or other options beside it.
    """
    use_code(line)
    others = line.beside("resume", "json", "seeds", "jobs", "devices", "nodes", "code", *MOVED, *RATE, *LEFT_OUT)
    if others:
        taken = "--data, --lr, --skip-batches, --seeds, --jobs and --devices"
        raise ConfigError(f"--resume: takes no other options but {taken}, not {others[0]}")
    found = {name: line[name] if name in line.given else 0 for name in ("seeds", "jobs", "devices")}
    for name, number in found.items():
        if name in line.given and name != "devices" and not 1 <= number <= MOST_SEEDS:
            raise ConfigError(f"--{name}: {number} is out of range; expected: 1 to {MOST_SEEDS:,}")
    changes = {field: value for name, field in (RATE, LEFT_OUT) if (value := line.field(name, field))}
    folder, images = Path(line["resume"]).expanduser(), line.field(*MOVED) or ""
    if "nodes" in line.given:
        found["nodes"] = line["nodes"]
    return {"folder": folder, "as_json": line["json"], "images": images, "changes": changes, **found}


def chosen_recipe(line: Line, model: str) -> Recipe:
    """The recipe for a network ("" for the recipe's own), as `--recipe` and `--data` say."""
    own = get_recipe(line["recipe"]).data.name if line["recipe"] else "digits"
    data, weights = line.field("data", "data.name", "name") or own, line.field("weights", "train.weights") or ""
    allow_named_code(model)
    return recipe_for(data, recipe=line["recipe"], model=model, weights=weights)
