"""The files of a run folder: their names, and how typed values are written to JSON and read back.

recipe.yaml        the recipe, complete: `senet train --config recipe.yaml` trains the same again
environment.json   versions, hardware, threads, start
metrics.csv        one row per epoch
curves.png         errors and losses over the epochs
weights.txt        what became of every tensor of `train.weights`, for a run that started from weights
best.safetensors   a checkpoint: the weights with the lowest validation error, with recipe and measurements
last.safetensors   instead, where there are no validation images: the weights of the last epoch
last.ckpt          a checkpoint with everything that `--resume` needs
previous.ckpt      the one before it, which is taken where last.ckpt is damaged
nan.txt            the images of the batch whose loss was NaN or infinite, if one was
summary.json       the result; a run that has one is finished
evaluation.json    errors by class, mistakes and calibration of the weights that were kept
gates.json         their gates
detection.json     instead of evaluation.json, of a detector: AP by class, curves and examples
report.html        the page; report.png, its picture for link previews
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from senet.config import from_dict, to_dict
from senet.errors import ConfigError, RunError
from senet.files import check_format, format_stamp, write_text

RECIPE, ENVIRONMENT, METRICS, CURVES = "recipe.yaml", "environment.json", "metrics.csv", "curves.png"
BEST, FINAL, LAST, SUMMARY = "best.safetensors", "last.safetensors", "last.ckpt", "summary.json"
EVALUATION, GATES, PAGE = "evaluation.json", "gates.json", "report.html"
CARD, PREVIOUS, NAN = "report.png", "previous.ckpt", "nan.txt"
CROPS, WEIGHTS, DETECTION = "crops.json", "weights.txt", "detection.json"

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


def json_file(
    cls: type[T], name: str, *, indent: int | None = 2
) -> tuple[Callable[[Path, T], None], Callable[[Path], T | None]]:
    """The writer and the reader of a folder's file of that name, which holds one value."""

    def write(folder: Path, value: T) -> None:
        """Write the file; RunError where it cannot be written."""
        write_value(folder / name, value, indent=indent)

    def read(folder: Path) -> T | None:
        """The value in a folder, None where the file is absent; RunError where it is damaged or of another senet."""
        return read_value(cls, folder / name) if (folder / name).is_file() else None

    return write, read
