"""`senet evaluate`: the errors of a checkpoint on a data set."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.output import print_json
from senet.cli.parse import Parser, data_fields, with_data
from senet.cli.views import add_views, check_in_memory, read_scales, read_views

if TYPE_CHECKING:
    from senet.evaluation.crops import Views
    from senet.recipes.recipe import DataRecipe
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Measure a checkpoint's top-1 and top-5 error on the held-out images of a data set.

By default it measures a single crop of the images that the network was trained for, prepared as in training; fields of
the data recipe can be set. --crops, --flip and --scales average over several views of an image. The paper's crop of 320
pixels is --image-size 320 --resize 320."""

EXAMPLES = (
    "senet evaluate runs/pair-digits/runs/se_resnet20-seed0",
    "senet evaluate net.safetensors --data imagenet --crops 10",
    "senet evaluate net.safetensors --data imagenet --image-size 320 --resize 320 --details",
)
COMMON = ("data.name", "data.root", "data.image_size", "data.resize", "data.eval_batch_size", "data.workers")

WORST = 5
"""How many classes and confusions `--details` prints."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("evaluate", "CHECKPOINT", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=COMMON)
    parser.checkpoint()
    add_views(parser)
    parser.switch("details", help="also errors by class, confusions and calibration")
    parser.device()
    parser.json()
    line = parser.read(argv)
    read_scales(line["scales"])

    from senet.device import pick_device
    from senet.evaluation.accuracy import Meter, evaluate
    from senet.evaluation.images import open_images, recipe_for_views
    from senet.models.describe import describe
    from senet.runs.checkpoint import load

    checkpoint = load(Path(line["CHECKPOINT"]).expanduser())
    recipe = with_data(checkpoint.recipe, line)
    views = read_views(line)
    check_in_memory(line, recipe.data, views)
    device = pick_device(line["device"], field="--device")
    data = open_images(recipe_for_views(recipe.data, views), recipe.train.seed, checkpoint.classes)
    meter = Meter()
    measured = evaluate(
        checkpoint.model,
        data.val,
        views=views,
        details=line["details"],
        classes=data.classes,
        batch_size=recipe.data.eval_batch_size,
        device=device,
        progress=not line["json"],
        meter=meter,
    )
    cost = describe(checkpoint.recipe.model, recipe.data.image_size)
    spent = {"device": device.type, **asdict(meter.read()), "params": cost.params, "macs": cost.macs}
    if line["json"]:
        about = {"model": checkpoint.recipe.name, "data": data.name, "views": asdict(views) if views else None}
        print_json({**about, **asdict(measured), "cost": spent})
        return 0
    print(data.held_out)
    print(f"{checkpoint.recipe.name}{f' ({views})' if views else ''}: {measured}")
    print(_spent(spent, recipe.data, views))
    if line["details"]:
        print(_details(measured))
    return 0


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
