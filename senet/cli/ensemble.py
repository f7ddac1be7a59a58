"""`senet ensemble`: several checkpoints, crops and scales as one classifier."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, add_classes, open_checkpoint
from senet.cli.output import print_json, table
from senet.cli.parse import Line, Parser, data_fields, with_data
from senet.cli.views import add_among, add_part, add_views, check_in_memory, read_scales, read_views
from senet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from senet.evaluation.accuracy import Answers
    from senet.evaluation.crops import Views
    from senet.evaluation.images import Images
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Evaluate several checkpoints as one classifier: the weighted mean of their probabilities.

Each checkpoint at each of --scales is a member. A checkpoint's weight is shared by its members. --search finds the
weights on one half of the images and measures the error on the other half. Images and classes are chosen as by senet
evaluate. --cache keeps the logits of each
network, set of images and views, so that they are computed once."""

EXAMPLES = (
    "senet ensemble runs/my_compare/runs/se_resnet20-seed0 runs/my_compare/runs/se_resnet20-seed1",
    "senet ensemble a.safetensors b.safetensors --weights 1,2 --scales 256,288 --flip",
    "senet ensemble a.safetensors b.safetensors --search --by loss",
)
COMMON = ("data.name", "data.root", "data.image_size", "data.resize")


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("ensemble", "CHECKPOINT...", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=COMMON)
    add_checkpoint(parser, count="+")
    parser.option("weights", metavar="NUMBERS", help="one per checkpoint, such as 1,2,1; by default equal")
    parser.switch("search", help="find the weights on one half of the images")
    parser.option(
        "by", default="top1_error", choices=("top1_error", "top5_error", "loss"), help="what --search minimises"
    )
    parser.option("seed", type=int, default=0, help="draws the halves")
    add_part(parser)
    add_among(parser)
    add_classes(parser)
    add_views(parser)
    parser.option("cache", default="runs/logits", metavar="FOLDER", help="folder for logits")
    parser.device()
    parser.json()
    line = parser.read(argv)
    read_scales(line["scales"])
    weights = _read_weights(line)
    if not line["search"]:
        line.refuse(("by", "seed"), "without --search")
    views = read_views(line)

    from senet.evaluation.accuracy import measure
    from senet.evaluation.ensemble import ensemble, search

    parts = views.by_scale() if views else [None]
    names, answers, images = _answers(line, parts)
    best = search(answers, by=line["by"], seed=line["seed"]) if line["search"] else None
    if best:
        shares, result, each = best.weights, best.result, best.members
    else:
        votes = [w for w in weights or [1.0] * len(line["CHECKPOINT"]) for _ in parts]
        result = measure(ensemble(answers, votes))
        shares = [w / sum(votes) for w in votes]
        each = [measure(a) for a in answers]
    if line["json"]:
        values = {**asdict(best), "members": names} if best else {"members": names}
        values |= {"weights": shares, "result": asdict(result), "each": [asdict(m) for m in each]}
        about = {"images_are": images.part.words, "part": images.part.name, "among": line["among"]}
        print_json(values | about | {"notes": images.notes, "views": asdict(views) if views else None})
        return 0
    print(images.part.words)
    print("".join(f"note: {note}\n" for note in images.notes))
    rows = [_row(name, f"{share:.3f}", m) for name, share, m in zip(names, shares, each, strict=True)]
    if best:
        rows.append(_row("all with equal weights", "", best.equal))
    rows.append(_row("ensemble", "", result))
    top5 = ("top-5 error, %",) if result.has_top5 else ()
    print(table([("member", "weight", "top-1 error, %", *top5, "loss"), *rows]))
    if best:
        print(f"\nsearched on the other half: {best.search}\nmeasured: {result}")
    else:
        print(f"\n{result}")
    return 0


def _read_weights(line: Line) -> list[float] | None:
    text, count = line["weights"], len(line["CHECKPOINT"])
    if not text:
        return None
    if line["search"]:
        raise ConfigError("--weights: has no effect with --search, which finds them")
    try:
        weights = [float(w) for w in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights: {text!r} is not a list of numbers, such as 1,2,1") from None
    if len(weights) != count:
        raise ConfigError(f"--weights: {len(weights)} numbers for {count} checkpoints")
    return weights


def _answers(line: Line, parts: list[Views] | list[None]) -> tuple[list[str], list[Answers], Images]:
    """Return the names and logits of all members, each checkpoint with each of these views, and the images."""
    from senet.device import pick_device
    from senet.evaluation.accuracy import answers
    from senet.evaluation.cache import about, cached
    from senet.evaluation.images import open_images, recipe_for_views

    device = pick_device(line["device"], field="--device")
    folder = Path(line["cache"]).expanduser()
    names: list[str] = []
    all_answers: list[Answers] = []
    opened: tuple[Any, Images] | None = None
    for path in line["CHECKPOINT"]:
        checkpoint = open_checkpoint(line, path)
        recipe = with_data(checkpoint.recipe, line)
        check_in_memory(line, recipe.data, parts[0])
        data = recipe_for_views(recipe.data, parts[0])
        wanted = data, checkpoint.classes, checkpoint.trained_on
        if opened is None or opened[0] != wanted:
            choice = {"part": line["part"], "among": line["among"], "progress": not line["json"]}
            try:
                opened = wanted, open_images(data, checkpoint, **choice)
            except DataError as error:
                raise DataError(f"{path}: {error}") from error
        images = opened[1]
        for views in parts:
            compute = partial(
                answers,
                checkpoint.model,
                images.split,
                views=views,
                outputs=images.outputs,
                batch_size=recipe.data.eval_batch_size,
                device=device,
                progress=not line["json"],
            )
            key = about(checkpoint.model, images.split.fingerprint(), views, device, images.outputs)
            found_answers = cached(folder, key, compute)
            if found_answers.skipped and data.on_bad_image == "error":
                raise DataError(found_answers.skipped[0])
            all_answers.append(found_answers)
            names.append(f"{path} ({views})" if views else path)
    return names, all_answers, images


def _row(name: str, weight: str, m: Evaluation) -> tuple[str, ...]:
    top5 = (f"{m.top5_error:.2f}",) if m.has_top5 else ()
    return name, weight, f"{m.top1_error:.2f}", *top5, f"{m.loss:.4f}"
