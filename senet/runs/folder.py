"""The run folder: what a run leaves behind, and how a finished or interrupted run is recognised.

recipe.yaml        the recipe, complete: `senet train --config recipe.yaml` trains the same again
environment.json   versions, hardware, threads, when
metrics.csv        one row per epoch
curves.png         errors and losses over the epochs
best.safetensors   the weights with the lowest validation error, with recipe and measurements: a checkpoint
last.ckpt          everything that `--resume` needs; also a checkpoint
summary.json       the result; a run that has one is finished
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import senet
from senet.device import cpu_name
from senet.errors import RunError
from senet.files import write_text
from senet.recipes.recipe import Recipe
from senet.runs.recipe_file import RECIPE, write_recipe_file

ENVIRONMENT, METRICS, CURVES = "environment.json", "metrics.csv", "curves.png"
BEST, LAST, SUMMARY = "best.safetensors", "last.ckpt", "summary.json"


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
