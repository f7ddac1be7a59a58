"""`senet ensemble`: several checkpoints, crops and scales as one classifier."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import show
from senet.cli.evaluate import add_views, classes_differ, for_views, read_scales, read_views, said, summary
from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from senet.evaluation.accuracy import Answers
    from senet.evaluation.crops import Views
    from senet.runs.evaluation import Evaluation

DESCRIPTION = """Measure several checkpoints as one classifier: the weighted mean of their probabilities.

Each checkpoint at each of --scales is a member. --search finds members and weights on one half of the held-out images
and measures them on the other half; without it all members of a checkpoint share its weight of --weights.
What a network says of the images is kept in --cache, under a name of weights, images and views, and not computed
again."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("ensemble", "CHECKPOINT...", DESCRIPTION, base=data_fields)
    parser.word("CHECKPOINT", count="+", help="run folders, .safetensors of senet, or last.ckpt")
    parser.option("weights", default="", metavar="NUMBERS", help="one per checkpoint, 1,2,1; by default all equal")
    parser.switch("search", help="find the weights on one half of the images")
    parser.option("by", default="top1_error", choices=("top1_error", "top5_error", "loss"), help="what it lowers")
    parser.option("seed", type=int, default=0, help="which images are in which half")
    add_views(parser)
    parser.option("cache", default="runs/logits", metavar="FOLDER", help="where logits are kept")
    parser.option("device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    scales, weights = read_scales(found["scales"]), _read_weights(found)
    idle = [name for name in ("by", "seed") if name in found.given]
    if idle and not found["search"]:
        raise ConfigError(f"--{idle[0]}: has no effect without --search")
    views = read_views(found, scales)

    from senet.evaluation.accuracy import measure
    from senet.evaluation.ensemble import ensemble, search

    parts = views.by_scale() if views else [None]
    names, answers = _answers(found, parts)
    best = search(answers, by=found["by"], seed=found["seed"]) if found["search"] else None
    if best:
        shares, result, each = best.weights, best.result, best.members
    else:
        votes = [w for w in weights or [1.0] * len(found["CHECKPOINT"]) for _ in parts]
        result = measure(ensemble(answers, votes))
        shares = [w / sum(votes) for w in votes]
        each = [measure(a) for a in answers]
    if found["json"]:
        values = {**asdict(best), "members": names} if best else {"members": names}
        values |= {"weights": shares, "result": asdict(result), "each": [asdict(m) for m in each]}
        print(json.dumps(values | {"views": asdict(views) if views else None}, indent=2))
        return 0
    rows = [_row(name, f"{share:.3f}", m) for name, share, m in zip(names, shares, each, strict=True)]
    if best:
        rows.append(_row("all with equal weights", "", best.equal))
    rows.append(_row("ensemble", "", result))
    print(show.table([("member", "weight", "top-1 error, %", "top-5 error, %", "loss"), *rows]))
    if best:
        print(f"\nsearched on the other half: {summary(best.search)}\nmeasured: {summary(result)}")
    else:
        print(f"\n{summary(result)}")
    return 0


def _read_weights(found: dict[str, Any]) -> list[float] | None:
    text, count = found["weights"], len(found["CHECKPOINT"])
    if not text:
        return None
    if found["search"]:
        raise ConfigError("--weights: has no effect with --search, which finds them")
    try:
        weights = [float(w) for w in text.split(",")]
    except ValueError:
        raise ConfigError(f"--weights: {text!r} is not numbers with commas between, such as 1,2,1") from None
    if len(weights) != count:
        raise ConfigError(f"--weights: {len(weights)} numbers for {count} checkpoints")
    return weights


def _answers(found: dict[str, Any], parts: list[Views] | list[None]) -> tuple[list[str], list[Answers]]:
    """Names and answers of all members: each checkpoint with each of these views."""
    from senet.data import Data, open_data
    from senet.device import pick_device
    from senet.evaluation.accuracy import answers
    from senet.evaluation.cache import about, cached
    from senet.runs.checkpoint import load
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    folder = Path(found["cache"]).expanduser()
    names: list[str] = []
    all_answers: list[Answers] = []
    opened: tuple[Any, Data] | None = None
    for path in found["CHECKPOINT"]:
        checkpoint = load(Path(path).expanduser())
        recipe = with_data(checkpoint.recipe, found)
        wanted = for_views(recipe.data, parts[0], found.named)
        if opened is None or opened[0] != wanted:
            opened = wanted, open_data(wanted, recipe.train.seed, progress=True)
        data = opened[1]
        if named(data.classes) != named(checkpoint.classes):
            raise DataError(f"{path}: {classes_differ(named(checkpoint.classes), named(data.classes))}")
        for views in parts:
            compute = partial(
                answers,
                checkpoint.model,
                data.val,
                views=views,
                batch_size=recipe.data.eval_batch_size,
                device=device,
                progress=not found["json"],
            )
            found_answers = cached(folder, about(checkpoint.model, data.val.fingerprint(), views, device), compute)
            if found_answers.skipped and wanted.on_bad_image == "error":
                raise DataError(found_answers.skipped[0])
            all_answers.append(found_answers)
            names.append(f"{path}{said(views)}")
    return names, all_answers


def _row(name: str, weight: str, m: Evaluation) -> tuple[str, ...]:
    return name, weight, f"{m.top1_error:.2f}", f"{m.top5_error:.2f}", f"{m.loss:.4f}"
