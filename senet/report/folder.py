"""From a folder to the page about it, by the typed readers of `senet.runs` and `senet.experiments`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from senet.config import to_dict
from senet.errors import ConfigError, RunError
from senet.experiments.experiment import TOP1
from senet.experiments.result import Result as ExperimentResult
from senet.experiments.result import read_results
from senet.files import write_text
from senet.recipes.recipe import Recipe
from senet.report.page import Cell, Complexity, Difference, Metrics, Page, Result, Results
from senet.report.words import count, is_number, wilson
from senet.runs.environment import read_environment
from senet.runs.evaluation import Evaluation, read_evaluation
from senet.runs.folder import PLAN, RECIPE, RESULT, RUNS
from senet.runs.gates import read_gates
from senet.runs.metrics import read_metrics
from senet.runs.recipe_file import read_recipe
from senet.runs.summary import read_summary
from senet.weights.ilsvrc import named

REPORT = "report.html"


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
    if (folder / RESULT).is_file():
        return experiment_page(folder)
    if (folder / RECIPE).is_file():
        return run_page(folder)
    if (folder / PLAN).is_file():
        raise RunError(
            f"{folder}: this experiment has no result yet; continue with: senet train --resume {_quoted(folder)}"
        )
    gates = read_gates(folder)
    if gates is None:
        raise RunError(f"{folder}: not a folder of senet train, compare, reproduce or analyze")
    return analysis_page(to_dict(gates))


def run_page(folder: Path) -> Page:
    """The page about one run; of an unfinished one, about its epochs so far. RunError where there is none yet."""
    recipe = read_recipe(folder)
    history = [asdict(epoch) for epoch in read_metrics(folder)]
    if not history:
        raise RunError(
            f"{folder}: the run has finished no epoch yet; go on with: senet train --resume {_quoted(folder)}"
        )
    found = read_summary(folder)
    summary = to_dict(found) if found else {}
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
            "environment": _environment(folder),
        },
    )
    cost = complexity_of(recipe)
    if cost is not None:
        page["complexity"] = cost
    evaluation = read_evaluation(folder)
    if evaluation is not None:
        page.update(details_page(evaluation))
        of = "" if evaluation.epoch is None else f" (epoch {evaluation.epoch})"
        overview.append(("classes and calibration", f"of best.safetensors{of}"))
    gates = read_gates(folder) or read_gates(folder / "analysis")
    if gates is not None:
        page["gates"] = to_dict(gates)
    return page


def experiment_page(folder: Path) -> Page:
    """The page about the experiments of a folder, as far as their runs have come."""
    results = read_results(folder)
    titles = [_heading(t.name, t.title) for t in results]
    alone = results[0] if len(results) == 1 else None
    page = Page(
        title=titles[0] if alone else _together([t.partition(":")[0] for t in titles]),
        kind="reproduction",
        results=[_results(t, title) for t, title in zip(results, titles, strict=True)],
        overview=_progress(results),
    )
    if alone:
        page["subtitle"] = alone.where
        tops = [d for d in alone.differences if d.measure == TOP1]
        if len(tops) == 1:
            page["result"] = _difference(asdict(tops[0]) | {"model": tops[0].row})
    curves = {
        row.name if alone else f"{t.name}, {row.name}": [[asdict(e) for e in h] for h in histories]
        for t in results
        for row in t.rows
        if any(histories := [read_metrics(folder / RUNS / name) for name in row.runs])
    }
    if curves:
        page["curves"] = curves
    runs = [folder / RUNS / name for t in results for row in t.rows for name in row.runs]
    done = [run for run in runs if (run / RECIPE).is_file()]
    trained = [f"senet train --config {_quoted(run / RECIPE)}" for run in done[:1]]
    page["provenance"] = {
        "commands": [*dict.fromkeys(command for t in results for command in t.commands), *trained],
        "seeds": sorted({seed for t in results for seed in t.seeds}),
    }
    if done:
        page["provenance"]["recipe"] = to_dict(read_recipe(done[0]))
        page["provenance"]["environment"] = _environment(done[0])
    return page


def _environment(folder: Path) -> dict[str, Any]:
    found = read_environment(folder)
    return to_dict(found) if found else {}


def _heading(name: str, title: str) -> str:
    return f"{re.sub(r'(?<=[a-z])(?=[0-9])', ' ', name).capitalize()}: {title}"


def _together(names: list[str]) -> str:
    """Several tables in a title.

    >>> _together(["Table 4", "Table 5", "Student"]), _together(["Table 10", "Table 11", "Table 12"])
    ('Table 4, Table 5, Student', 'Tables 10 to 12')
    """
    numbers = [int(name.removeprefix("Table ")) for name in names if name.startswith("Table ")]
    is_row = len(numbers) == len(names) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"Tables {numbers[0]} to {numbers[-1]}" if is_row else ", ".join(names)


def _progress(results: Sequence[ExperimentResult]) -> list[tuple[str, Cell]]:
    """How far the runs have come."""
    verdicts = [d.verdict for t in results for d in t.differences if d.measure == TOP1]
    return [
        ("runs finished", f"{sum(t.finished for t in results)} of {sum(t.planned for t in results)}"),
        ("training, hours", round(sum(t.train_seconds for t in results) / 3600, 2)),
        *((f"differences: {word}", verdicts.count(word)) for word in dict.fromkeys(verdicts)),
    ]


def _results(t: ExperimentResult, title: str) -> Results:
    """A target's rows and differences, in the measures that the paper prints."""
    columns = ["row", *(head for m in t.shown for head in (f"{t.measures[m]}, %", "the paper's")), "n", "parameters"]
    lines: list[list[Cell]] = [
        [
            row.name,
            *(cell for m in t.shown for cell in (row.errors[m].text or None, row.errors[m].printed)),
            row.finished if row.runs else None,
            row.params,
        ]
        for row in t.rows
    ]
    notes = [f"Failed: {name}: {why}" for name, why in t.failed.items()]
    notes += [f"{row.name}: {row.note}" for row in t.rows if row.note]
    if t.paper_run:
        notes.append(f"The paper's run: {t.paper_run}")
    return {
        "title": title,
        "subtitle": t.where,
        "table": {"columns": columns, "rows": lines, "notes": notes, "differs": list(t.differs)},
        "differences": [
            _paired(asdict(d), d.label) | {"measure": t.measures[d.measure].replace(" error", "")}
            for d in t.differences
            if d.measure in t.shown
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
