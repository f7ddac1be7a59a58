"""`senet evaluate`: the errors of a checkpoint on a data set."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError, DataError
from senet.recipes.recipe import DataRecipe

if TYPE_CHECKING:
    from senet.evaluation.crops import Views
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Measure a checkpoint's top-1 and top-5 error on the held-out images of a data set.

By default single crop, on the data that it was trained with, prepared in the same way; fields of the data recipe can be
set. Several views of an image, whose probabilities are averaged, with --crops, --flip and --scales. The paper's 320
crop is --image-size 320 --resize 320."""

WORST = 5
"""Classes, and confusions, that `--details` names."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("evaluate", "CHECKPOINT", DESCRIPTION, base=data_fields)
    parser.word("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    add_views(parser)
    parser.switch("details", help="also class by class, confusions, and calibration")
    parser.option("device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    scales = read_scales(found["scales"])

    from senet.runs.checkpoint import load

    checkpoint = load(Path(found["CHECKPOINT"]).expanduser())
    recipe = with_data(checkpoint.recipe, found)
    views = read_views(found, scales)

    from senet.data import open_data
    from senet.device import pick_device
    from senet.evaluation.accuracy import Meter, evaluate
    from senet.models.describe import describe
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    data = open_data(for_views(recipe.data, views, found.named), recipe.train.seed, progress=True)
    # ImageNet's folders are called by synset, its classes in words.
    if named(data.classes) != named(checkpoint.classes):
        differ = classes_differ(named(checkpoint.classes), named(data.classes))
        raise DataError(f"--data {recipe.data.name}: has other classes: {differ}")
    meter = Meter()
    measured = evaluate(
        checkpoint.model,
        data.val,
        views=views,
        details=found["details"],
        classes=data.classes,
        batch_size=recipe.data.eval_batch_size,
        device=device,
        progress=not found["json"],
        meter=meter,
    )
    cost = describe(checkpoint.recipe.model, recipe.data.image_size)
    spent = {"device": device.type, **asdict(meter.read()), "params": cost.params, "macs": cost.macs}
    if found["json"]:
        about = {"model": checkpoint.recipe.name, "data": data.name, "views": asdict(views) if views else None}
        print(json.dumps({**about, **asdict(measured), "cost": spent}, indent=2))
        return 0
    print(data.held_out)
    print(f"{checkpoint.recipe.name}{said(views)}: {summary(measured)}")
    print(_spent(spent, recipe.data, views))
    if found["details"]:
        print(_details(measured))
    return 0


def add_views(parser: Parser) -> None:
    """The options that say which views of an image are averaged."""
    parser.option(
        "crops",
        default="1",
        choices=("1", "10", "12", "whole"),
        help="the centre; corners, centre and mirrors; these and the squeezed image; or the uncropped image",
    )
    parser.switch("flip", help="also the mirrored views")
    parser.option("scales", default="", metavar="SIDES", help="shorter sides in pixels to scale to, 256,288,320")
    parser.option("average", default="probabilities", choices=("probabilities", "logits"), help="of what")


def read_scales(text: str) -> tuple[int, ...]:
    """The shorter sides; ConfigError where they are no numbers."""
    try:
        return tuple(int(side) for side in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"--scales: {text!r} is not numbers of pixels with commas between, such as 256,320") from None


def read_views(found: dict[str, Any], scales: tuple[int, ...]) -> Views | None:
    """The views that the line asks for; None for the single crop."""
    from senet.evaluation.crops import Views

    is_whole = found["crops"] == "whole"
    crops = 1 if is_whole else int(found["crops"])
    views = Views(crops=crops, flip=found["flip"], scales=scales, whole=is_whole, average=found["average"])
    if views.count == 1 and views.average != "probabilities":
        raise ConfigError("--average: has no effect on a single view")
    return views if views != Views() else None


def for_views(recipe: DataRecipe, views: Views | None, named: list[str]) -> DataRecipe:
    """The data recipe for views, which are cut from whole files and not from the squares that are kept in memory."""
    from senet.data.images import BUILT_IN

    if views is None or recipe.name in BUILT_IN or not recipe.is_in_memory:
        return recipe
    if "data.in_memory" in named:
        raise ConfigError("--data.in_memory: 'yes' excludes --crops, --flip and --scales, which need the whole files")
    return replace(recipe, in_memory="no", resize=recipe.image_size)


def said(views: Views | None) -> str:
    """The views in words, to follow a name."""
    if views is None:
        return ""
    crops = "whole image" if views.whole else f"{views.crops} crop{'s' if views.crops > 1 else ''}"
    several = "s" if len(views.scales) > 1 else ""
    scales = f", scale{several} {', '.join(map(str, views.scales))}" if views.scales else ""
    average = ", logits averaged" if views.average == "logits" else ""
    return f" ({crops}{', mirrored' if views.flip else ''}{scales}{average})"


def summary(measured: Evaluation) -> str:
    """A measurement in one line."""
    n = len(measured.skipped_images)
    skipped = f", {n:,} image{'' if n == 1 else 's'} left out" if n else ""
    return (
        f"top-1 error {measured.top1_error:.2f} %, top-5 error {measured.top5_error:.2f} %, "
        f"loss {measured.loss:.4f}, {measured.images:,} images{skipped}"
    )


def _spent(spent: dict[str, Any], recipe: DataRecipe, views: Views | None) -> str:
    count = views.count if views else 1
    memory = "" if spent["memory_mib"] is None else f", memory {spent['memory_mib']:,.0f} MiB ({spent['memory']})"
    return (
        f"{spent['images_per_second']:,.0f} images/s on {spent['device']} (median of {spent['batches']} "
        f"batch{'es' if spent['batches'] > 1 else ''}, without decoding{f', {count} views each' if count > 1 else ''})"
        f"{memory}\n{spent['params']:,} parameters, {spent['macs'] / 1e6:,.2f} M multiply-adds for one view of "
        f"{recipe.image_size} pixels"
    )


def _details(measured: Evaluation) -> str:
    """What stands out; all of it is in the JSON."""
    from senet.weights.ilsvrc import named

    c, t = measured.calibration, measured.tempered
    rows = [r for r in measured.per_class if r.images]
    worst = sorted(rows, key=lambda r: -(r.top1_error or 0))[:WORST]
    shown = zip(named(r.name for r in worst), worst, strict=True)
    names = named(r.name for r in measured.per_class)
    cells = [(n, i, j) for i, row in enumerate(measured.confusion) for j, n in enumerate(row) if n and i != j]
    taken = sorted(cells, key=lambda cell: -cell[0])[:WORST]
    lines = [
        f"calibration error {c.ece:.4f} expected, {c.mce:.4f} largest; Brier score {c.brier:.4f}"
        if c
        else "no answer is a number",
        "worst classes: " + ", ".join(f"{name} {r.top1_error:.1f} %" for name, r in shown),
        "taken for another: " + (", ".join(f"{names[i]} for {names[j]} {n}" for n, i, j in taken) or "none"),
    ]
    if t is not None:
        lines.insert(
            1,
            f"a temperature of {t.temperature:.3f}, fitted on {t.fitted_on:,} images, changes the expected error "
            f"on the other {t.measured_on:,} from {t.before.ece:.4f} to {t.after.ece:.4f}",
        )
    return "\n".join(lines)


def classes_differ(have: tuple[str, ...], want: tuple[str, ...]) -> str:
    """The message where a checkpoint's classes are not those of the images."""
    if len(have) != len(want):
        return f"the checkpoint knows {len(have)} classes and the images have {len(want)}"
    i = next(i for i, (a, b) in enumerate(zip(have, want, strict=True)) if a != b)
    return f"the checkpoint's class {i} is {have[i]!r} and the images' is {want[i]!r}"
