"""`senet evaluate`: the errors of a checkpoint on a data set."""

from __future__ import annotations

import json
from pathlib import Path

from senet.cli import options
from senet.cli.line import Line
from senet.errors import DataError
from senet.recipes.registry import recipe_for

DESCRIPTION = """Measure a checkpoint's top-1 and top-5 error on the held-out images of a data set, single crop.

By default on the data that it was trained with, prepared in the same way; fields of the data recipe can be set."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = options.Parser("evaluate", "CHECKPOINT", DESCRIPTION)
    parser.add_argument("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    parser.option("device", default="auto", choices=["auto", "cpu", "cuda"], help="where to compute")
    parser.option("json", action="store_true", help="print JSON")
    shown = options.DataOnly(recipe_for("digits").data)
    options.add_fields(parser, shown)
    found = parser.read(Line.of(argv).argv, shown)

    from senet.checkpoint import load

    checkpoint = load(Path(found["CHECKPOINT"]).expanduser())
    recipe = options.with_data(checkpoint.recipe, found)

    from senet.data import open_data
    from senet.device import pick_device
    from senet.evaluation.accuracy import evaluate
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    data = open_data(recipe.data, recipe.train.seed, progress=True)
    # ImageNet's folders are called by synset, its classes in words.
    if named(data.classes) != named(checkpoint.classes):
        raise DataError(classes_differ(checkpoint.classes, data.classes))
    measured = evaluate(
        checkpoint.model, data.val, batch_size=recipe.data.eval_batch_size, device=device, progress=not found["json"]
    )
    if found["json"]:
        print(json.dumps({"model": checkpoint.recipe.name, "data": data.name, **measured}, indent=2))
        return 0
    print(data.source)
    skipped = f", {len(measured['skipped_images'])} images left out" if measured["skipped_images"] else ""
    print(
        f"{checkpoint.recipe.name}: top-1 error {measured['top1_error']:.2f} %, top-5 error "
        f"{measured['top5_error']:.2f} %, loss {measured['loss']:.4f}, {measured['images']:,} images{skipped}"
    )
    return 0


def classes_differ(have: tuple[str, ...], want: tuple[str, ...]) -> str:
    """The message where a checkpoint's classes are not those of the images."""
    if len(have) != len(want):
        return f"the checkpoint knows {len(have)} classes and the images have {len(want)}"
    i = next(i for i, (a, b) in enumerate(zip(have, want, strict=True)) if a != b)
    return f"the checkpoint's class {i} is {have[i]!r} and the images' is {want[i]!r}"
