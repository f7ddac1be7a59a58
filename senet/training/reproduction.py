"""A target of the paper, run: the folder, the queue, and ours beside the paper's.

plan.json                 what is run, complete: the recipes and the paper's figures; `--resume` needs nothing else
runs/NAME-DIGEST-seedN/   one run each; a row that stands in several tables is run once
TARGET.json, .md, .png    ours beside the paper's, as data, text and picture
reproduction.json         all targets of the folder
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from senet.config import from_dict, to_dict
from senet.errors import RunError
from senet.paper.plan import Plan, key, merged, row_named
from senet.paper.target import TOP1, TOP5, Row, Target
from senet.recipes.recipe import Recipe
from senet.runs import folder as run
from senet.training.compare import paired_difference

PLAN, RESULT, RUNS = "plan.json", "reproduction.json", "runs"
MEASURES = {TOP1: "top-1 error", TOP5: "top-5 error"}


def measures(crops: Sequence[int]) -> dict[str, str]:
    """What is measured, and what it is called; `crops`: further sizes in pixels at which the networks are evaluated."""
    return MEASURES | {f"{m}_{size}": f"{name} at {size} pixels" for size in crops for m, name in MEASURES.items()}


def write_plans(folder: Path, plans: Sequence[Plan], jobs: int = 1) -> None:
    """Write plan.json; plans that it has already stay, and are added to where they are of the same target.

    jobs: runs side by side, for `--resume`.

    Raises RunError where a row is there already and is another run.
    """
    whole = add_plans(folder, plans)
    run.write_json(folder / PLAN, {"jobs": jobs, "targets": [plan_dict(p) for p in whole]})


def add_plans(folder: Path, plans: Sequence[Plan]) -> list[Plan]:
    """The plans of a folder with these added; what `write_plans` writes, and raises."""
    found = {p.target.name: p for p in read_plans(folder)} if (folder / PLAN).is_file() else {}
    for plan in plans:
        name = plan.target.name
        try:
            found[name] = merged(found[name], plan) if name in found else plan
        except RunError as error:
            raise RunError(f"{folder} holds another experiment. {error}. Name another folder with --out") from None
    return list(found.values())


def read_plans(folder: Path) -> list[Plan]:
    """The plans of a folder; RunError where it has none that can be read."""
    return [_plan(d) for d in _read(folder)["targets"]]


def read_jobs(folder: Path) -> int:
    """How many runs side by side the folder was last trained with."""
    return _read(folder).get("jobs", 1)


def _read(folder: Path) -> Any:
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    try:
        found = json.loads((folder / PLAN).read_text())
        assert [_plan(d) for d in found["targets"]]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise RunError(f"{folder}: not the folder of a reproduction: {error}") from error
    return found


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    t = plan.target
    rows = [asdict(replace(row, recipe=None)) | {"recipe": row.recipe and to_dict(row.recipe)} for row in t.rows]
    fields = {name: getattr(t, name) for name in ("name", "title", "hours", "crops", "shows")}
    return {**fields, "rows": rows, "seeds": plan.seeds, "differs": plan.differs} | {
        "budget": plan.budget,
        "commands": plan.commands,
    }


def _plan(d: dict[str, Any]) -> Plan:
    rows = tuple(Row(**r | {"recipe": r["recipe"] and from_dict(Recipe, r["recipe"])}) for r in d["rows"])
    fields = {name: d[name] for name in ("name", "title", "hours", "shows")}
    target = Target(rows=rows, crops=tuple(d["crops"]), **fields)
    lists = {name: tuple(d.get(name, ())) for name in ("seeds", "differs", "commands")}
    return Plan(target=target, budget=d.get("budget", ""), **lists)


def result(plan: Plan, summaries: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> dict[str, Any]:
    """Ours beside the paper's, as plain data; errors in percent, differences in points.

    where: a sentence about data, epochs and how much of it has come.  shown: the measures that the paper prints too.
    rows: name, network, parameters and multiply-adds, `runs` by name, `n` that are finished, their `epochs`, and for
        each measure the `errors` of the seeds (None for a run that failed or is still to come), `mean`, `deviation`,
        both as `text`, and the `printed`.
    differences: row, minus, measure, seeds in both, mean, 95 % interval of the paired difference, printed, verdict.
    """
    names = measures(plan.target.crops)
    rows = [_row(row, plan, summaries, failed) for row in plan.target.rows]
    by_name = {row["name"]: row for row in rows}
    differences = [
        found
        for row in plan.target.rows
        if row.minus
        for measure in names
        if (found := _difference(plan.target, row, by_name, measure)) is not None
    ]
    done = [summaries[name] for name in plan.runs if name in summaries]
    return {
        "target": plan.target.name,
        "title": plan.target.title,
        "where": _where(plan, done),
        "measures": names,
        "shown": [m for m in names if any(row[m]["printed"] is not None for row in rows)] or [TOP1],
        "seeds": list(plan.seeds),
        "finished": len(done),
        "runs": len(plan.runs),
        "rows": rows,
        "differences": differences,
        "differs": list(plan.differs),
        "failed": {name: failed[name] for name in plan.runs if name in failed},
        "paper_needed": plan.target.hours,
        "commands": list(plan.commands),
        "train_seconds": round(sum(s["train_seconds"] for s in done), 1),
    }


def _where(plan: Plan, done: Sequence[Mapping[str, Any]]) -> str:
    if not done:
        return "No run has finished yet."
    first, n = done[0], len(plan.seeds)
    epochs = sorted({s["epochs"] for s in done})
    spent = sum(s["train_seconds"] for s in done)
    time = (
        f"{spent / 3600:.1f} hours" if spent > 3600 else f"{spent / 60:.1f} minutes" if spent > 60 else f"{spent:.0f} s"
    )
    length = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
    return (
        f"{first['data']}, {first['train_images']:,} training and {first['test_images']:,} test images, "
        f"{length} epoch{'s' if epochs[-1] > 1 else ''}, {n} seed{'s' if n > 1 else ''}; errors after the last epoch. "
        f"{len(done)} of {len(plan.runs)} runs finished, {time} of training."
    )


def _row(row: Row, plan: Plan, summaries: Mapping[str, dict[str, Any]], failed: Mapping[str, str]) -> dict[str, Any]:
    names = [key(row.recipe, seed) for seed in plan.seeds] if row.recipe else []
    done = [summaries.get(name) for name in names]
    first = next((s for s in done if s is not None), {})
    measured = {}
    for measure in measures(plan.target.crops):
        errors = [None if s is None else s.get(measure) for s in done]
        have = [e for e in errors if e is not None]
        mean, deviation = statistics.fmean(have) if have else None, statistics.stdev(have) if len(have) > 1 else None
        measured[measure] = {
            "errors": errors,
            "mean": mean,
            "deviation": deviation,
            "text": "" if mean is None else f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}",
            "printed": row.printed.get(measure),
        }
    return {
        "name": row.name,
        "network": row.recipe.name if row.recipe else None,
        "params": first.get("params"),
        "macs": first.get("macs"),
        "epochs": first.get("epochs"),
        "step_ms": statistics.median(s["step_ms"] for s in done if s) if first else None,
        "runs": names,
        "n": sum(s is not None for s in done),
        "note": row.note,
        **measured,
    }


def _difference(target: Target, row: Row, by_name: Mapping[str, dict[str, Any]], measure: str) -> dict[str, Any] | None:
    """A row's errors minus those of the row it is compared with, over the seeds that both have; None for none."""
    here, base = by_name[row.name], by_name[row.minus]
    pairs = [
        (a, b)
        for a, b in zip(here[measure]["errors"], base[measure]["errors"], strict=True)
        if a is not None and b is not None
    ]
    theirs, against = row.printed.get(measure), row_named(target, row.minus).printed.get(measure)
    printed = None if theirs is None or against is None else round(theirs - against, 2)
    if not pairs:
        return None
    ours, bases = zip(*pairs, strict=True)
    found = paired_difference(row.name, row.minus, list(ours), list(bases), [1.0])
    low, high = (None if math.isnan(v) else v for v in (found.low, found.high))
    return {
        "row": row.name,
        "minus": row.minus,
        "measure": measure,
        "seeds": found.seeds,
        "mean": found.mean,
        "deviation": None if math.isnan(found.deviation) else found.deviation,
        "low": low,
        "high": high,
        "printed": printed,
        "verdict": verdict(low, high, printed),
    }


def verdict(low: float | None, high: float | None, printed: float | None) -> str:
    """What an interval says of the paper's difference: its sign alone, for size depends on data and epochs.

    >>> verdict(-2.0, -0.5, -1.02), verdict(-2.0, 0.5, -1.02), verdict(0.5, 2.0, -1.02), verdict(0.0, 0.0, -1.02)
    ('agrees', 'open', 'disagrees', 'equal')
    """
    if low is None or high is None:
        return "open"
    if low <= 0 <= high:
        return "equal" if low == high else "open"
    if printed is None:
        return "clear"
    return "agrees" if (low > 0 and printed > 0) or (high < 0 and printed < 0) else "disagrees"


def markdown(found: Mapping[str, Any]) -> str:
    """The result as a page of Markdown."""
    names, shown = found["measures"], found["shown"]
    head = ["row", *(cell for m in shown for cell in (f"{names[m]}, %", "the paper's"))]
    lines = [[*head, "n", "parameters", "multiply-adds"]]
    for row in found["rows"]:
        cells = [row["name"]]
        for m in shown:
            printed = row[m]["printed"]
            cells += [row[m]["text"], "" if printed is None else f"{printed:.2f}"]
        cost = [f"{row['params']:,}", f"{row['macs'] / 1e6:,.2f} M"] if row["params"] else ["", ""]
        lines.append([*cells, str(row["n"]) if row["runs"] else "", *cost])
    text = f"# {found['target']}: {found['title']}\n\n{found['where']}\n\n{_table(lines)}\n"
    if found["differences"]:
        head = ["difference", "measure", "ours, points", "95 % interval", "n", "the paper's", "verdict"]
        rows = [head]
        for d in found["differences"]:
            if d["measure"] not in shown:
                continue
            interval = "" if d["low"] is None else f"{d['low']:+.2f} to {d['high']:+.2f}"
            printed = "" if d["printed"] is None else f"{d['printed']:+.2f}"
            label = f"{d['row']} minus {d['minus']}"
            rows.append(
                [label, names[d["measure"]], f"{d['mean']:+.2f}", interval, str(d["seeds"]), printed, d["verdict"]]
            )
        text += (
            f"\n{_table(rows)}\n\nPaired over seeds, Student's t. *agrees*: the interval excludes zero and the sign is "
            "the paper's; *disagrees*: it excludes zero and the sign is not; *open*: too few or too noisy runs to say; "
            "*equal*: the errors are the same in every seed; *clear*: the interval excludes zero, and the paper gives "
            "no figure.\n"
        )
    notes = [f"{row['name']}: {row['note']}" for row in found["rows"] if row["note"]]
    for title, items in (
        ("Failed runs", [f"{name}: {why}" for name, why in found["failed"].items()]),
        ("Notes", notes),
        ("Otherwise than in the paper", found["differs"]),
    ):
        if items:
            text += f"\n{title}:\n\n" + "".join(f"- {item}\n" for item in items)
    if found["paper_needed"]:
        text += f"\nThe paper's run: {found['paper_needed']}.\n"
    return text


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


def write(
    folder: Path, plans: Sequence[Plan], summaries: Mapping[str, Any], failed: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Write each target's result into the folder, and all of them into reproduction.json; gives them."""
    from senet.files import write_text
    from senet.training.plots import plot_curves, plot_rows

    results = []
    for plan in plans:
        found, name = result(plan, summaries, failed), plan.target.name
        run.write_json(folder / f"{name}.json", found)
        write_text(folder / f"{name}.md", markdown(found))
        plot_rows(folder / f"{name}.png", found)
        histories = {
            row["name"]: [run.read_metrics(folder / RUNS / n) for n in row["runs"] if n in summaries]
            for row in found["rows"]
        }
        histories = {n: h for n, h in histories.items() if h}
        if histories and (plan.target.shows == "curves" or len(histories) <= 4):
            plot_curves(folder / f"{name}-curves.png", histories)
        results.append(found)
    run.write_json(folder / RESULT, {"targets": results})
    return results
