"""`senet compare`: several networks, several seeds, one recipe; a table with the paired difference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from senet.cli import options
from senet.errors import ConfigError
from senet.files import free_name
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for

DESCRIPTION = """Train networks under identical conditions and compare their errors.

For each seed all networks see the same images in the same order with the same augmentation, and start from the same
values in every weight that they share. The table gives mean and deviation over the seeds and, against the first
network, the paired difference with its 95 % confidence interval (Student's t). Fields of the recipe are set as in
`senet train`; fields of the attention unit (--se.reduction 8) go to every network that has one."""


def run(argv: list[str]) -> int:
    """The command."""
    from senet.cli.train import common_options, data_label

    words, rest = options.leading(argv)
    if len(words) < 2 and not {"-h", "--help", "--resume"} & {t.partition("=")[0] for t in rest}:
        raise ConfigError("name two or more networks, for example: senet compare resnet20 se_resnet20 --seeds 3")
    wanted = options.peek(rest, "recipe")
    data = options.peek(rest, "data", "data.name", "name") or "digits"
    bases = [options.labelled(recipe_for(data, recipe=wanted, model=word), "") for word in words or ["", ""]]
    bases = [replace(b, **_training(bases[0])) for b in bases]
    with_se = next((b for b in bases if b.model.se is not None), bases[0])
    kind = options.peek(rest, "se")
    parser = options.Parser("compare", "MODEL MODEL...", DESCRIPTION)
    parser.add_argument("MODEL", nargs="*", help="names of the networks, see: senet models")
    parser.option("seeds", type=int, default=3, help="number of seeds, from train.seed up")
    parser.option("resume", default="", metavar="FOLDER", help="go on with the comparison in this folder")
    common_options(parser)
    shown = options.labelled(with_se, kind) if with_se.model.se is not None else with_se
    options.add_fields(parser, shown)
    found = parser.read([*words, *rest], shown)
    if found["resume"]:
        from senet.cli.train import resume

        return resume(Path(found["resume"]), found["json"])
    changed = options.apply(shown, found["fields"])
    recipes = [_with_changes(b, shown, changed, found["fields"]) for b in bases]
    names = "-".join(r.name for r in recipes)
    folder = (
        Path(found["out"]) if found["out"] else free_name(Path("runs"), f"compare-{names}-{data_label(recipes[0])}")
    )
    return compare_and_print(recipes, found["seeds"], folder, as_json=found["json"])


def _training(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data, "optim": recipe.optim, "schedule": recipe.schedule, "train": recipe.train}


def _with_changes(base: Recipe, shown: Recipe, changed: Recipe, fields: dict[str, Any]) -> Recipe:
    """The changes that the options made to `shown`, made to another network's recipe."""
    own = dict(options.leaves(base))
    differing = {p: v for p, v in fields.items() if options.value_at(shown, p) != v and p in own}
    model = options.apply(base, {p: differing.get(p, options.value_at(base, p)) for p in own}).model
    if base.model.se is not None:
        model = replace(model, se=changed.model.se)
    name = base.name
    if base.model.se is not None and changed.model.se is not None and changed.model.se.kind != base.model.se.kind:
        name = f"{base.name}+{changed.model.se.kind}"
    return replace(base, name=name, model=model, **_training(changed))


def compare_and_print(
    recipes: list[Recipe], seeds: int, folder: Path, *, as_json: bool = False, resume: bool = False
) -> int:
    """Train, compare, print the table."""
    from senet.data import open_data
    from senet.training.compare import compare

    report = compare(
        recipes,
        seeds,
        lambda recipe, seed: open_data(recipe, seed, progress=True),
        folder,
        resume=resume,
        announce=announce,
    )
    if as_json:
        print(json.dumps(report | {"folder": str(folder)}, indent=2))
    else:
        print_report(report, folder)
    return 0


def announce(name: str, recipe: Recipe) -> None:
    """Say what is going to be trained."""
    t = recipe.train
    unit = f", {recipe.model.se.kind} unit" if recipe.model.se else ", no attention unit"
    print(
        f"\n{name} on {recipe.data.name}{unit}: {t.epochs} epochs, batch {recipe.data.batch_size}, seed {t.seed}",
        flush=True,
    )


def print_report(report: dict[str, Any], folder: Path) -> None:
    """The comparison as a table."""
    print(
        f"\n{report['data']}, {report['epochs']} epochs, {report['train_images']:,} training and "
        f"{report['test_images']:,} test images, {report['seeds']} seed{'s' if report['seeds'] > 1 else ''}; "
        f"error after the last epoch\n"
    )
    head = ("network", "test error, %", "parameters", "multiply-adds", "ms per step", "training, s")
    rows = []
    for m in report["models"]:
        spread = "" if m["error_deviation"] is None else f" ± {m['error_deviation']:.2f}"
        rows.append(
            (
                m["model"],
                f"{m['error_mean']:.2f}{spread}",
                f"{m['params']:,}",
                f"{m['macs'] / 1e6:,.2f} M",
                f"{m['step_ms']:.1f}",
                f"{m['train_seconds']:.1f}",
            )
        )
    print(table([head, *rows]))
    for d in report["differences"]:
        interval = (
            f"95 % interval {d['low']:+.2f} to {d['high']:+.2f}, n = {d['seeds']}"
            if d["low"] is not None
            else "one seed: no interval; for one: senet compare ... --seeds 3"
        )
        print(
            f"\n{d['model']} minus {d['minus']}: {d['mean']:+.2f} points of error ({interval}); "
            f"{d['step_ratio']:.2f} times the time per step"
        )
    last = report["models"][-1]["model"] + ("" if report["seeds"] == 1 else "-seed0")
    print(
        f"\ncurves       {folder}/curves.png\n"
        f"checkpoints  {folder}/{last}/best.safetensors, ...\n"
        f"evaluate     senet evaluate {folder}/{last}\n"
        f"predict      senet predict {folder}/{last} IMAGE..."
    )


def table(rows: list[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> str:
    """Rows of text in columns, those of `left` to the left, the others to the right; a line under the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
