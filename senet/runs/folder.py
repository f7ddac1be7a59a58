"""The files of a run folder: their names, and how typed values are written to JSON and read back.

recipe.yaml        the recipe, complete: `senet train --config recipe.yaml` trains the same again
environment.json   versions, hardware, threads, start
metrics.csv        one row per epoch
curves.png         errors and losses over the epochs
best.safetensors   a checkpoint: the weights with the lowest validation error, with recipe and measurements
last.ckpt          a checkpoint with everything that `--resume` needs
summary.json       the result; a run that has one is finished
evaluation.json    errors by class, confusions and calibration, once `senet report --details` has measured them
gates.json         the gates for a page, once `senet analyze` has measured them
report.html        the page
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch

import senet
from senet.config import from_dict, to_dict
from senet.device import cpu_name
from senet.errors import ConfigError, RunError
from senet.files import check_format, format_stamp, write_text
from senet.recipes.recipe import Recipe
from senet.runs.recipe_file import RECIPE, write_recipe_file

ENVIRONMENT, METRICS, CURVES = "environment.json", "metrics.csv", "curves.png"
BEST, LAST, SUMMARY = "best.safetensors", "last.ckpt", "summary.json"
EVALUATION, GATES, PAGE = "evaluation.json", "gates.json", "report.html"
CROPS = "crops.json"

PLAN, RESULT, RUNS = "plan.json", "result.json", "runs"
"""In the folder of an experiment: what is run, what came out, and the folders of its runs."""

T = TypeVar("T")


def write_value(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a dataclass as JSON, with senet's format and version.

    Raises:
        RunError: The file cannot be written.
    """
    write_text(path, json.dumps(format_stamp() | to_dict(value), indent=indent) + "\n")


def read_value(cls: type[T], path: Path) -> T:
    """The dataclass that `write_value` wrote.

    Raises:
        RunError: The file is absent, damaged, or of another version of senet.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        check_format(found, path)
        return from_dict(cls, {name: value for name, value in found.items() if name not in format_stamp()})
    except (OSError, ValueError, ConfigError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: cannot be read: {reason}; delete it to have it made again") from error


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """Write recipe.yaml; RunError where it cannot be written."""
    write_recipe_file(folder / RECIPE, recipe)


def environment(device: torch.device, threads: int = 0) -> dict[str, Any]:
    """Versions and hardware, beside every figure that depends on them; `threads`: 0 for torch's own number."""
    import lightning
    import torchvision

    return {
        "senet": senet.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; RunError where it cannot be written."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds; RunError where it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}; delete it to have it made again") from error


def write_metrics(folder: Path, history: list[dict[str, float]]) -> None:
    """Write metrics.csv anew from all epochs so far, so that a resumed run has each epoch once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(folder / METRICS, text.getvalue())


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; RunError where it is absent or damaged."""
    path = folder / METRICS
    try:
        with open(path, newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run, or None; RunError where the file is damaged."""
    file = folder / SUMMARY
    return read_json(file) if file.is_file() else None
