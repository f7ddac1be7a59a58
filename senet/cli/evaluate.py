"""`senet evaluate`: the errors of a checkpoint on a data set."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, add_classes, open_checkpoint
from senet.cli.output import print_json, table
from senet.cli.parse import Line, Parser, data_fields, with_data
from senet.cli.training_options import device_options, launched
from senet.cli.views import add_among, add_part, add_views, check_in_memory, read_scales, read_views
from senet.processes import gathered, world

if TYPE_CHECKING:
    import torch

    from senet.evaluation.crops import Views
    from senet.recipes.recipe import DataRecipe, Recipe
    from senet.runs.checkpoint import Checkpoint
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Measure a checkpoint's top-1 and top-5 error on a data set; a detector's average precision.

It takes all images of a folder of class folders, and of a folder in parts those of --part. Of the images that the run
was trained on it takes those that were held out. Classes are matched by name, in any order; the images may have some of
them only.

By default it measures a single crop of the images that the network was trained for, prepared as in training; fields of
the data recipe can be set. --crops, --flip and --scales average over several views of an image. The paper's crop of 320
pixels is --image-size 320 --resize 320."""

EXAMPLES = (
    "senet evaluate runs/pair-digits/runs/se_resnet20-seed0",
    "senet evaluate runs/se_resnet20-photos --data other_photos --part test",
    "senet evaluate net.safetensors --data imagenet --crops 10",
    "senet evaluate net.safetensors --data imagenet --image-size 320 --resize 320 --details",
)
COMMON = ("data.name", "data.root", "data.image_size", "data.resize", "data.eval_batch_size", "data.workers")

WORST = 5
"""How many classes and confusions `--details` prints."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("evaluate", "CHECKPOINT", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=COMMON)
    add_checkpoint(parser)
    add_part(parser)
    add_among(parser)
    add_classes(parser)
    add_views(parser)
    parser.switch("details", help="also worst classes, confusions and calibration")
    parser.device()
    device_options(parser)
    parser.json()
    line = parser.read(argv)
    read_scales(line["scales"])
    if (status := launched(["evaluate", *argv], line, line["device"])) is not None:
        return status
    from senet.training.devices import together

    with together(line["device"]):
        return _measure(line)


def _measure(line: Line) -> int:
    from senet.device import pick_device
    from senet.evaluation.accuracy import Meter, evaluate
    from senet.evaluation.images import open_images, recipe_for_views
    from senet.foreign_models import describe_network
    from senet.runs.evaluation import remarks

    checkpoint = open_checkpoint(line, detectors=True)
    recipe = with_data(checkpoint.recipe, line)
    device = pick_device(line["device"], field="--device")
    if recipe.task.name == "detection":
        return _detector(checkpoint, recipe, line, device)
    views = read_views(line)
    check_in_memory(line, recipe.data, views)
    images = open_images(
        recipe_for_views(recipe.data, views),
        checkpoint,
        part=line["part"],
        among=line["among"],
        progress=not line["json"],
    )
    meter = Meter()
    measured = evaluate(
        checkpoint.model,
        images.split,
        views=views,
        details=line["details"],
        classes=images.classes,
        outputs=images.outputs,
        batch_size=recipe.data.eval_batch_size,
        device=device,
        progress=not line["json"],
        meter=meter,
    )
    cost = describe_network(checkpoint.recipe.model, recipe.data.image_size)
    speed = asdict(meter.read())
    if world() > 1:
        speed["images_per_second"] = sum(gathered(speed["images_per_second"] or 0.0))
    spent = {"device": device.type, **speed, "params": cost.params, "macs": cost.macs}
    measured = replace(measured, part=images.part.name)
    notes = [*images.notes, *remarks(measured.per_class, measured.part)]
    if line["json"]:
        about = {"model": checkpoint.recipe.name, "data": recipe.data.label, "images_are": images.part.words}
        about |= {"among": line["among"], "notes": notes, "views": asdict(views) if views else None}
        print_json({**about, **asdict(measured), "cost": spent})
        return 0
    print(images.part.words)
    print(f"{checkpoint.recipe.name}{f' ({views})' if views else ''}: {measured}")
    print("".join(f"note: {note}\n" for note in notes), end="")
    print(_spent(spent, recipe.data, views))
    if line["details"]:
        print(_details(measured))
    return 0


def _detector(checkpoint: Checkpoint, recipe: Recipe, line: Line, device: torch.device) -> int:
    """Measure a detector and print what came out."""
    from senet.data import open_part
    from senet.evaluation.objects import evaluate_detector
    from senet.foreign_models import describe_network
    from senet.recipes.task import DETECTION

    line.refuse(("among", "crops", "flip", "scales", "average"), "on a detector")
    part = open_part(recipe.data, line["part"], trained_on=checkpoint.trained_on)
    size, show = recipe.data.eval_batch_size, not line["json"]
    measured, rate = evaluate_detector(
        checkpoint.model, part, checkpoint.classes, batch_size=size, device=device, progress=show
    )
    cost = describe_network(checkpoint.recipe.model, recipe.data.image_size)
    if line["json"]:
        about = {"model": checkpoint.recipe.name, "data": recipe.data.label, "images_are": part.words}
        spent = {"device": device.type, "images_per_second": rate, "params": cost.params, "macs": cost.macs}
        print_json({**about, "notes": part.notes, **asdict(measured), "cost": spent})
        return 0
    print(part.words, *(f"note: {note}" for note in part.notes), sep="\n")
    print(f"{checkpoint.recipe.name}: {measured.images:,} images, {measured.objects:,} objects\n")
    rows = [("figure", "%"), *((words, _figure(measured.measured[m])) for m, words in DETECTION.measures.items())]
    for count, recall in zip((1, 10, 100), measured.recall, strict=True):
        rows.append((f"recall of {count} detection{'s' if count > 1 else ''} an image", _figure(recall)))
    print(table(rows))
    if line["details"]:
        named = sorted((c for c in measured.per_class if c.objects), key=lambda c: -(c.ap or 0))
        found = [(c.name, _figure(c.ap), _figure(c.ap50), f"{c.objects:,}") for c in named]
        print("\n" + table([("class", "AP, %", "AP50, %", "objects"), *found]))
    height, width = cost.image_size
    print(
        f"\n{rate:,.1f} images/s on {device.type}, without decoding; {cost.params:,} parameters, "
        f"{cost.macs / 1e9:,.1f} G multiply-adds for {height} x {width} pixels"
    )
    return 0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


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
        else "all answers are NaN",
        "worst classes: " + ", ".join(f"{name} {r.top1_error:.1f} %" for name, r in shown),
        "taken for another: " + (", ".join(f"{names[i]} for {names[j]} {n}" for n, i, j in taken) or "none"),
    ]
    # Of fewer images it is chance.
    if t is not None and t.fitted_on + t.measured_on >= 100:
        lines.insert(
            1,
            f"a temperature of {t.temperature:.3f}, fitted on {t.fitted_on:,} images, changes the expected calibration "
            f"error on the other {t.measured_on:,} from {t.before.ece:.4f} to {t.after.ece:.4f}",
        )
    return "\n".join(lines)
