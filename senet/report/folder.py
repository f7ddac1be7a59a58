"""From what a command left in a folder to the page about it.

A run has recipe.yaml, metrics.csv, environment.json and summary.json; a comparison has comparison.json and report.json
beside its runs; a reproduction has reproduction.json and runs/. evaluation.json, where it is, holds the details of an
evaluation, and gates.json, there or in analysis/, a network's gates as `Gates.page` writes them.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

from senet.config import to_dict
from senet.errors import ConfigError, RunError
from senet.files import write_text
from senet.paper.target import TOP1
from senet.recipes.recipe import Recipe
from senet.report.page import Cell, Complexity, Difference, Metrics, Page, Result, Results
from senet.report.words import count, is_number, wilson
from senet.runs.evaluation import Evaluation, read_evaluation
from senet.runs.gates import read_gates
from senet.runs.recipe_file import RECIPE, read_recipe
from senet.weights.ilsvrc import named

REPORT = "report.html"
EVALUATION, GATES = "evaluation.json", "gates.json"


def write_page(folder: Path) -> Path:
    """Write report.html into a folder of any kind and return its path.

    Raises:
        RunError: See `page_of`; or the file cannot be written.
    """
    from senet.report.html import build

    path = folder / REPORT
    write_text(path, build(page_of(folder)))
    return path


def page_of(folder: Path) -> Page:
    """The page about a folder, whichever kind it is; RunError for one that no command of ours wrote, or unfinished."""
    if (folder / "reproduction.json").is_file():
        return reproduction_page(folder)
    if (folder / "comparison.json").is_file():
        return comparison_page(folder)
    if (folder / RECIPE).is_file():
        return run_page(folder)
    if (folder / GATES).is_file():
        return analysis_page(to_dict(read_gates(folder)))
    if (folder / "plan.json").is_file():
        raise RunError(
            f"{folder}: this reproduction has no result yet; go on with: senet reproduce --resume {_quoted(folder)}"
        )
    raise RunError(
        f"{folder}: no folder of senet train ({RECIPE}), compare (comparison.json), reproduce (reproduction.json) or "
        f"analyze ({GATES})"
    )


def run_page(folder: Path) -> Page:
    """The page about one run; of an unfinished one, about its epochs so far. RunError where there is none yet."""
    recipe = read_recipe(folder)
    history = read_metrics(folder)
    if not history:
        raise RunError(
            f"{folder}: the run has finished no epoch yet; go on with: senet train --resume {_quoted(folder)}"
        )
    summary = _read(folder / "summary.json", default={})
    last, t = history[-1], recipe.train
    error, images = last["test_top1_error"], int(last.get("test_images", 0))
    is_done = bool(summary)
    facts: list[tuple[str, Cell]] = [
        ("top-1 error, lowest", _percent_in_epoch(summary, history)),
        ("top-5 error", f"{last['test_top5_error']:.2f} %"),
        ("loss", f"{last['test_loss']:.4f}"),
        ("training images", summary.get("train_images") or int(last.get("train_images", 0)) or None),
        ("test images", images or None),
        ("images left out", len(summary.get("skipped_images", ())) or None),
        ("parameters", summary.get("params")),
        ("multiply-adds", summary.get("macs")),
        ("time per step, ms", summary.get("step_ms")),
        ("training, s", summary.get("train_seconds")),
    ]
    overview: list[tuple[str, Cell]] = [(name, value) for name, value in facts if value is not None]
    page = Page(
        title=recipe.name,
        kind="run",
        subtitle=_subtitle(recipe, len(history), is_done),
        result=_measured(error, images, "after the last epoch" if is_done else f"after epoch {len(history)}"),
        overview=overview,
        curves={recipe.name: [history]},
        provenance={
            "commands": [f"senet train --config {_quoted(folder / RECIPE)}", f"senet evaluate {_quoted(folder)}"],
            "recipe": to_dict(recipe),
            "seeds": [t.seed],
            "environment": _read(folder / "environment.json", default={}),
        },
    )
    cost = complexity_of(recipe)
    if cost is not None:
        page["complexity"] = cost
    if (folder / EVALUATION).is_file():
        measured = read_evaluation(folder)
        assert measured is not None
        page.update(details_page(measured))
        of = "" if measured.epoch is None else f" (epoch {measured.epoch})"
        overview.append(("classes and calibration", f"of best.safetensors{of}"))
    kept = next((p for p in (folder / GATES, folder / "analysis" / GATES) if p.is_file()), None)
    if kept is not None:
        page["gates"] = to_dict(read_gates(kept.parent))  # type: ignore[typeddict-item]
    return page


def comparison_page(folder: Path) -> Page:
    """The page about networks that were trained alike; RunError for a comparison that is not finished."""
    report = _read(folder / "report.json", default=None)
    if report is None:
        raise RunError(
            f"{folder}: this comparison is not finished; go on with: senet compare --resume {_quoted(folder)}"
        )
    models, differences = report["models"], report["differences"]
    names = [m["model"] for m in models]
    runs = {m["model"]: [folder / run for run in m["runs"]] for m in models}
    recipes = {run: read_recipe(run) for of_one in runs.values() for run in of_one}
    first, recipe = next(iter(recipes.items()))
    costs = [complexity_of(recipes[of_one[0]]) for of_one in runs.values()]
    page = Page(
        title=" and ".join([", ".join(names[:-1]), names[-1]]),
        kind="comparison",
        subtitle=f"{_plural(report['epochs'], 'epoch')} on {report['data']}, {_plural(report['seeds'], 'seed')}. All "
        "networks see the same images in the same order, and start from equal values in every weight that they share.",
        networks=[
            {
                "name": m["model"],
                "errors": m["errors"],
                "mean": m["error_mean"],
                "deviation": m["error_deviation"],
                "params": m["params"],
                "macs": m["macs"],
                "step_ms": m["step_ms"],
            }
            for m in models
        ],
        overview=[
            ("data", report["data"]),
            ("training images", report["train_images"]),
            ("test images", report["test_images"]),
            ("epochs", report["epochs"]),
            ("seeds", report["seeds"]),
            ("error", "of the last epoch"),
        ],
        curves={name: [read_metrics(run) for run in of_one] for name, of_one in runs.items()},
        provenance={
            "commands": [f"senet train --config {_quoted(of_one[0] / RECIPE)}" for of_one in runs.values()],
            "recipe": to_dict(recipe),
            "seeds": sorted({r.train.seed for r in recipes.values()}),
            "environment": _read(first / "environment.json", default={}),
        },
    )
    if len(differences) == 1:
        page["result"] = _difference(differences[0])
    else:
        page["results"] = [{"differences": [_paired(d, f"{d['model']} minus {d['minus']}") for d in differences]}]
    cost = max(filter(None, costs), key=lambda c: c.get("total", {}).get("se_params", 0), default=None)
    if cost is not None:
        page["complexity"] = cost
    return page


def reproduction_page(folder: Path) -> Page:
    """The page about tables and figures of the paper, run: ours beside the paper's, as far as the runs have come."""
    targets = _read(folder / "reproduction.json")["targets"]
    titles = [_heading(t) for t in targets]
    page = Page(
        title=titles[0] if len(targets) == 1 else _together([t.partition(":")[0] for t in titles]),
        kind="reproduction",
        results=[_results(t, title) for t, title in zip(targets, titles, strict=True)],
        overview=_progress(folder, targets),
    )
    if len(targets) == 1:
        page["subtitle"] = targets[0]["where"]
        tops = [d for d in targets[0]["differences"] if d["measure"] == TOP1]
        if len(tops) == 1:
            page["result"] = _difference(tops[0] | {"model": tops[0]["row"]})
    curves = {
        row["name"] if len(targets) == 1 else f"{t['target']}, {row['name']}": histories
        for t in targets
        for row in t["rows"]
        if any(histories := [read_metrics(folder / "runs" / name) for name in row["runs"]])
    }
    if curves:
        page["curves"] = curves
    done = [
        name
        for t in targets
        for row in t["rows"]
        for name in row["runs"]
        if (folder / "runs" / name / RECIPE).is_file()
    ]
    trained = [f"senet train --config {_quoted(folder / 'runs' / name / RECIPE)}" for name in done[:1]]
    page["provenance"] = {
        "commands": [*dict.fromkeys(command for t in targets for command in t["commands"]), *trained],
        "seeds": sorted({seed for t in targets for seed in t["seeds"]}),
    }
    if done:
        page["provenance"]["recipe"] = to_dict(read_recipe(folder / "runs" / done[0]))
        page["provenance"]["environment"] = _read(folder / "runs" / done[0] / "environment.json", default={})
    return page


def _heading(target: dict[str, Any]) -> str:
    name = re.sub(r"(?<=[a-z])(?=\d)", " ", target["target"]).capitalize()
    return f"{name}: {target['title']}"


def _together(names: list[str]) -> str:
    """Several tables in a title.

    >>> _together(["Table 4", "Table 5", "Student"]), _together(["Table 10", "Table 11", "Table 12"])
    ('Table 4, Table 5, Student', 'Tables 10 to 12')
    """
    numbers = [int(name.removeprefix("Table ")) for name in names if name.startswith("Table ")]
    is_row = len(numbers) == len(names) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"Tables {numbers[0]} to {numbers[-1]}" if is_row else ", ".join(names)


def _progress(folder: Path, targets: list[dict[str, Any]]) -> list[tuple[str, Cell]]:
    """How far it has come; a run that is in several tables counts once."""
    runs = {name for t in targets for row in t["rows"] for name in row["runs"]}
    summaries = [s for name in runs if (s := _read(folder / "runs" / name / "summary.json", default=None))]
    verdicts = [d["verdict"] for t in targets for d in t["differences"] if d["measure"] == TOP1]
    return [
        ("runs finished", f"{len(summaries)} of {len(runs)}"),
        ("training, hours", round(sum(s["train_seconds"] for s in summaries) / 3600, 2)),
        *((f"differences: {word}", verdicts.count(word)) for word in dict.fromkeys(verdicts)),
    ]


def _results(target: dict[str, Any], title: str) -> Results:
    """A target's rows and differences, in the measures that the paper prints."""
    names, shown = target["measures"], target["shown"]
    columns = ["row", *(head for m in shown for head in (f"{names[m]}, %", "the paper's")), "n", "parameters"]
    lines: list[list[Cell]] = [
        [
            row["name"],
            *(cell for m in shown for cell in (row[m]["text"] or None, row[m]["printed"])),
            row["n"] if row["runs"] else None,
            row["params"],
        ]
        for row in target["rows"]
    ]
    notes = [f"Failed: {name}: {why}" for name, why in target["failed"].items()]
    notes += [f"{row['name']}: {row['note']}" for row in target["rows"] if row["note"]]
    if target["paper_needed"]:
        notes.append(f"The paper's run: {target['paper_needed']}")
    return {
        "title": title,
        "subtitle": target["where"],
        "table": {"columns": columns, "rows": lines, "notes": notes, "differs": target["differs"]},
        "differences": [
            _paired(d, f"{d['row']} minus {d['minus']}") | {"measure": names[d["measure"]].replace(" error", "")}
            for d in target["differences"]
            if d["measure"] in shown
        ],
    }


def _paired(d: dict[str, Any], label: str) -> Difference:
    found = Difference(label=label, mean=d["mean"], low=d["low"], high=d["high"], n=d["seeds"])
    found["printed"], found["verdict"] = d.get("printed"), d.get("verdict", "")
    return found


def details_page(measured: Evaluation) -> Page:
    """The parts of a page that an evaluation with details gives: classes, confusion, calibration."""
    page = Page()
    names = named(row.name for row in measured.per_class)
    if measured.per_class:
        page["per_class"] = [
            {"class": name, "images": r.images, "top1_error": r.top1_error, "top5_error": r.top5_error}  # type: ignore[typeddict-item]
            for name, r in zip(names, measured.per_class, strict=True)
        ]
        page["confusion"] = {"classes": list(names), "matrix": [list(row) for row in measured.confusion]}
    if measured.calibration:
        page["calibration"] = to_dict(measured.calibration)  # type: ignore[typeddict-item]
    return page


def analysis_page(gates: Any) -> Page:
    """The page about a network's gates alone, from `Gates.page(...)`."""
    page = Page(title=gates.get("model") or "Gates", kind="analysis", gates=gates)
    units = len(gates["units"])
    page["subtitle"] = (
        f"{_plural(units, 'unit')} over {count(gates['images'])} images. {gates.get('source', '')}".strip()
    )
    if is_number(gates.get("top1_error")):
        page["result"] = _measured(gates["top1_error"], gates["images"], "on these images")
    return page


def complexity_of(recipe: Recipe) -> Complexity | None:
    """What a recipe's network costs, by stage; None for one that cannot be counted, such as a user's own table."""
    from senet.models.describe import describe

    try:
        cost = describe(recipe.model, recipe.data.image_size)
    except ConfigError:
        return None
    return {
        "model": recipe.name,
        "image_size": list(cost.image_size),
        "total": {
            "params": cost.params,
            "macs": cost.macs,
            "se_params": cost.params - cost.params_without_se,
            "se_macs": cost.macs - cost.macs_without_se,
        },
        "stages": [
            {
                "name": r.part,
                "layers": r.layers,
                "output": f"{r.channels} x {r.height} x {r.width}",
                "params": r.params,
                "macs": r.macs,
                "se_params": r.se_params,
                "se_macs": r.se_macs,
            }
            for r in cost.rows
        ],
    }


def read_metrics(folder: Path) -> list[Metrics]:
    """The rows of metrics.csv, none where it is not yet there; RunError where it is damaged."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


_NEEDED: Any = object()


def _read(path: Path, default: Any = _NEEDED) -> Any:
    """A JSON file; `default` where it is not there; RunError where it is damaged, or absent without a default."""
    if default is not _NEEDED and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _quoted(path: Path) -> str:
    """As a shell takes it."""
    return shlex.quote(str(path))


def _measured(error: float, images: int, when: str) -> Result:
    result = Result(label=f"top-1 error {when}", value=error, unit="%")
    if images:
        low, high = wilson(error, images)
        result.update(low=low, high=high, note=f"The interval is of the {count(images)} images alone, not of the seed.")
    return result


def _difference(d: dict[str, Any]) -> Result:
    low, high = d["low"], d["high"]
    if low is None:
        verdict = "One seed, so there is no interval."
    elif low <= 0 <= high:
        verdict = "The interval holds zero: no difference is shown."
    else:
        verdict = f"The interval leaves zero out: {'fewer' if high < 0 else 'more'} errors."
    return Result(
        label=f"{d['model']} minus {d['minus']}",
        value=d["mean"],
        unit="points of error",
        low=low,
        high=high,
        is_difference=True,
        note=f"{verdict} Paired over {_plural(d['seeds'], 'seed')}.",
    )


def _subtitle(recipe: Recipe, epochs: int, is_done: bool) -> str:
    t = recipe.train
    length = _plural(epochs, "epoch") if is_done else f"{epochs} of {_plural(t.epochs, 'epoch')} so far"
    unit = f"{recipe.model.se.kind} units" if recipe.model.se else "no attention unit"
    return f"{length} on {Path(recipe.data.name).name}, batch {recipe.data.batch_size}, seed {t.seed}, {unit}."


def _percent_in_epoch(summary: dict[str, Any], history: list[Metrics]) -> str:
    best = min(history, key=lambda row: row["test_top1_error"])
    error = summary.get("best_top1_error", best["test_top1_error"])
    return f"{error:.2f} % (epoch {summary.get('best_epoch', int(best['epoch']))})"


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"
