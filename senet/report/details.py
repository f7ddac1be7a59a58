"""Errors by class, confusions and calibration of a run, measured for its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from senet.data import open_data
from senet.device import pick_device
from senet.errors import ConfigError
from senet.evaluation.accuracy import evaluate
from senet.runs.checkpoint import load
from senet.runs.evaluation import Evaluation, write_evaluation
from senet.runs.folder import BEST, RECIPE


def measure_details(folder: Path, *, device: str = "auto", progress: bool = False) -> Evaluation:
    """Evaluate a run's best.safetensors on the run's own test images and write evaluation.json.

    Args:
        folder: Folder of a run.
        device: "auto", "cpu" or "cuda".
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: The folder is not that of a run.
        CheckpointError: There is no best.safetensors.
        DataError: The images are absent.
    """
    if not (folder / RECIPE).is_file():
        raise ConfigError(f"--details: {folder} is not the folder of one run; for a run inside it: senet report RUN")
    checkpoint = load(folder / BEST)
    recipe = checkpoint.recipe
    data = open_data(recipe.data, recipe.train.seed, progress=progress)
    evaluation = evaluate(
        checkpoint.model,
        data.val,
        details=True,
        classes=data.classes,
        batch_size=recipe.data.eval_batch_size,
        device=pick_device(device, field="--device"),
        progress=progress,
    )
    evaluation = replace(evaluation, epoch=int(checkpoint.measurements["epoch"]))
    write_evaluation(folder, evaluation)
    return evaluation
