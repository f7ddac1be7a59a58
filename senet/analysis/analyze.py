"""A network's gates over a data set, measured, drawn and kept in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from senet.analysis.ablate import ablate
from senet.analysis.collect import collect_gates
from senet.analysis.images import grouped, load, mixed, pixels
from senet.analysis.pictures import thumbnails
from senet.analysis.plots import draw_all
from senet.analysis.statistics import Gates
from senet.data import ObjectSplit, Part
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
    by: str = "class",
    ablations: bool = False,
    name: str = "",
    progress: bool = True,
) -> tuple[Gates, list[Path]]:
    """Measure the gates of every unit over images (section 7.2) and write gates.npz, gates.json, pictures.

    Of a detector these are the gates of its trunk, one image at a time. A gate is of a whole image, not of an object:
    an image counts once for each class that one of its objects has, and not at all without objects.

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
        by: "class"; or "size" of objects, "small", "medium" and "large" as COCO has them, in place of their classes.
        ablations: Also measure the error with gates replaced: 3 passes for each unit.
        name: What the network is called.
        progress: Show bars.

    Returns:
        The gates, and the PNG files.

    Raises:
        ConfigError: The network has no units; ablations are asked for and its outputs are not these classes, or it is a
            detector; or `by="size"` of images without objects.
        RunError: A file cannot be written.
    """
    split, source, batch_size, judged = images.split, images.words, recipe.eval_batch_size, None
    groups, of = grouped(images, by)
    if isinstance(split, ObjectSplit):
        if ablations:
            raise ConfigError("--ablate: needs the error of a classifier, and this is a detector")
        model, batch_size = model.backbone.trunk, 1  # type: ignore[union-attr, assignment]
        source += f"; an image counts for each {by} that its objects have"
    else:
        try:
            judged = match_classes(outputs, images.classes, "data.name")
        except DataError as error:
            if ablations:
                raise ConfigError(f"--ablate: needs an error: {error}") from None
    # One order for both passes, mixed, since another image's gates should come from other classes.
    keys = mixed(of, per_class, batch_size)
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    gates = collect_gates(
        model,
        load(split, keys, device, groups=of, bar="gates" if progress else None),
        named(groups),
        chosen=chosen,
        sampled=channels,
        outputs=judged,
        source=source,
        name=name,
    )
    if judged is not None and ablations:
        gates = ablate(model, load(split, keys, device, bar="ablations" if progress else None), gates, judged)
    folder.mkdir(parents=True, exist_ok=True)
    gates.save(folder / "gates.npz")
    write_gates(folder, gates.page(thumbnails(split, recipe)))
    pictures = draw_all(folder, gates, lambda i: pixels(split, recipe, i).permute(1, 2, 0).numpy())
    return gates, pictures
