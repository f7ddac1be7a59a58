"""What a run's page shows beside its curves: errors by class, mistakes, calibration and gates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from senet.analysis.collect import collect_gates
from senet.analysis.images import load as load_images
from senet.analysis.images import mixed, pixels
from senet.analysis.pictures import data_uri, thumbnails
from senet.data import Split, open_part
from senet.data.sources import check_trained_on
from senet.device import pick_device
from senet.diagnosis.discovery import find
from senet.errors import ConfigError
from senet.evaluation.accuracy import Answers, measure
from senet.evaluation.objects import EXAMPLES, evaluate_detector
from senet.experiments.runner import moved
from senet.outputs import logits_of
from senet.recipes.recipe import DataRecipe
from senet.runs.checkpoint import load
from senet.runs.detection import DetectionEvaluation, write_detection
from senet.runs.evaluation import Evaluation, Mistake, write_evaluation
from senet.runs.folder import BEST, FINAL, RECIPE
from senet.runs.gates import write_gates
from senet.weights.ilsvrc import named

MISTAKES = 24
"""Number of wrong answers that a page shows."""


def measure_details(
    folder: Path, *, images: str = "", device: str = "auto", progress: bool = False
) -> Evaluation | DetectionEvaluation:
    """Measure the weights that a run kept on its own test images, or else validation images, in two passes.

    Writes evaluation.json, and gates.json where the network has units; of a detector detection.json.

    Args:
        folder: Folder of a run.
        images: Folder that its images are in now; "" where they are still where they were.
        device: "auto", "cpu" or "cuda".
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: The folder is not that of a run.
        CheckpointError: It kept no weights.
        DataError: The images are absent, or are not its own.
    """
    if not (folder / RECIPE).is_file():
        raise ConfigError(f"--details: {folder} is not the folder of one run; for a run inside it: senet report RUN")
    # Not last.ckpt, which may be of another epoch.
    checkpoint = load(folder / (FINAL if (folder / FINAL).is_file() else BEST))
    recipe, where = checkpoint.recipe.data, pick_device(device, field="--device")
    if images:
        recipe = moved(checkpoint.recipe, images).data
        if checkpoint.trained_on:
            check_trained_on(checkpoint.trained_on, recipe)
    part = open_part(recipe, trained_on=checkpoint.trained_on, progress=progress)
    if checkpoint.recipe.task.name == "detection":
        found, _ = evaluate_detector(
            checkpoint.model,
            part,
            checkpoint.classes,
            batch_size=recipe.eval_batch_size,
            device=where,
            examples=EXAMPLES,
            progress=progress,
        )
        found = replace(found, epoch=int(checkpoint.measurements["epoch"]))
        write_detection(folder, found)
        return found
    split, classes = part.split, named(part.classes)
    model = checkpoint.model.eval().to(device=where, memory_format=torch.channels_last)  # type: ignore[call-overload]

    found = []
    keys = [(0, some.tolist()) for some in torch.arange(len(split), device="cpu").split(recipe.eval_batch_size)]
    with torch.no_grad():
        for batch, targets, numbers in load_images(split, keys, where, bar="evaluating" if progress else None):
            if len(batch):
                found.append((logits_of(model(batch)).float().cpu(), targets.cpu(), numbers))
    logits, targets, numbers = map(torch.cat, zip(*found, strict=True))
    evaluation = replace(
        measure(Answers(logits, targets, tuple(split.skipped)), details=True, classes=part.classes),
        epoch=int(checkpoint.measurements["epoch"]),
        part=part.name,
        mistakes=_mistakes(logits, targets, numbers.tolist(), split, recipe, classes),
    )
    write_evaluation(folder, evaluation)
    if find(model):
        batches = load_images(
            split, mixed(split.targets, 0, recipe.eval_batch_size), where, bar="gates" if progress else None
        )
        outputs, name = range(len(classes)), checkpoint.recipe.name
        gates = collect_gates(model, batches, classes, outputs=outputs, source=part.words, name=name)
        write_gates(folder, gates.page(thumbnails(split, recipe)))
    return evaluation


def _mistakes(
    logits: torch.Tensor,
    targets: torch.Tensor,
    numbers: list[int],
    split: Split,
    recipe: DataRecipe,
    classes: Sequence[str],
) -> tuple[Mistake, ...]:
    confidence, answers = logits.softmax(1).max(1)
    wrong = (answers != targets).nonzero()[:, 0].tolist()
    wrong = sorted(wrong, key=lambda i: -float(confidence[i]))[:MISTAKES]

    def picture(index: int) -> str:
        return data_uri(Image.fromarray(pixels(split, recipe, index).permute(1, 2, 0).squeeze(2).numpy()))

    return tuple(
        Mistake(
            truth=classes[int(targets[i])],
            answer=classes[int(answers[i])],
            confidence=round(float(confidence[i]), 4),
            picture=picture(numbers[i]),
        )
        for i in wrong
    )
