"""A network's gates over a data set, measured, drawn and kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from senet.analysis.ablate import ablate
from senet.analysis.collect import collect_gates
from senet.analysis.images import load, mixed, pixels
from senet.analysis.pictures import thumbnails
from senet.analysis.plots import draw_all
from senet.analysis.statistics import Gates
from senet.data import Part
from senet.errors import ConfigError, DataError
from senet.evaluation.classes import match_classes
from senet.recipes.recipe import DataRecipe
from senet.runs.gates import write_gates
from senet.weights.ilsvrc import named


def analyze(
    model: nn.Module,
    outputs: Sequence[str],
    images: Part,
    recipe: DataRecipe,
    folder: Path,
    *,
    device: torch.device,
    chosen: Sequence[int] = (),
    channels: int = 50,
    per_class: int = 0,
    ablations: bool = False,
    name: str = "",
    progress: bool = True,
) -> tuple[Gates, list[Path]]:
    """Measure the gates of every unit over images (section 7.2) and write gates.npz, gates.json, pictures.

    Args:
        model: Any network with units.
        outputs: Names of its outputs.
        images: The images, from `senet.data.open_part`.
        recipe: How they are prepared.
        folder: Made where it is not there. Files of an earlier analysis are replaced.
        device: Where to compute.
        chosen: Numbers of the classes to draw; by default the first four.
        channels: Channels of each unit to draw.
        per_class: Number of images of each class; 0 for all.
        ablations: Also measure the error with gates replaced: 3 passes for each unit.
        name: What the network is called.
        progress: Show bars.

    Returns:
        The gates, and the PNG files.

    Raises:
        ConfigError: The network has no units, or ablations are asked for and its outputs are not these classes.
        RunError: A file cannot be written.
    """
    classes, split = named(images.classes), images.split
    try:
        judged = match_classes(outputs, images.classes, "data.name")
    except DataError as error:
        if ablations:
            raise ConfigError(f"--ablate: needs an error: {error}") from None
        judged = None
    # One order for both passes, mixed, since another image's gates should come from other classes.
    keys = mixed(split, per_class, recipe.eval_batch_size)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    gates = collect_gates(
        model,
        load(split, keys, device, bar="gates" if progress else None),
        classes,
        chosen=chosen,
        sampled=channels,
        outputs=judged,
        source=images.words,
        name=name,
    )
    if judged is not None and ablations:
        gates = ablate(model, load(split, keys, device, bar="ablations" if progress else None), gates, judged)
    folder.mkdir(parents=True, exist_ok=True)
    gates.save(folder / "gates.npz")
    write_gates(folder, gates.page(thumbnails(split, recipe)))
    pictures = draw_all(folder, gates, lambda i: pixels(split, recipe, i).permute(1, 2, 0).numpy())
    return gates, pictures
