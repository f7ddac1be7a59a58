"""The values of each section's template. A function returns None where the page has nothing for its section."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from senet.config import to_dict
from senet.experiments.result import Difference, Result, RowResult
from senet.recipes.recipe import PARTS
from senet.recipes.task import DETECTION
from senet.report.page import Page
from senet.report.words import NONE, count, interval, is_number, number, short
from senet.runs.evaluation import COUNTED, Evaluation
from senet.runs.gates import worth

Values = Mapping[str, Any]

COLOURS = 8
"""Number of line colours in the style sheet: --c0 to --c7."""

MOST_LABELS = 20
"""Number of classes up to which a matrix or a list shows each of them."""

PAIRS = 10
"""Number of confusions in the list of the most frequent ones."""


@dataclass(frozen=True)
class Scale:
    """A horizontal axis."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float | None]) -> Scale:
        """An axis with round ends a little beyond the values."""
        found = [v for v in values if is_number(v)] or [0.0]
        low, high = min(found), max(found)
        step = 10 ** math.floor(math.log10(max(high - low, 0.1))) / 2
        return cls(step * math.floor(low / step - 0.25), step * math.ceil(high / step + 0.25))

    def place(self, value: float) -> str:
        """The position of a value on the axis, for CSS.

        >>> Scale(-1.0, 1.0).place(0.5)
        '75.00%'
        """
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def overview(page: Page) -> Values:
    """The headline with its axis, the networks side by side, and the facts."""
    h = page.headline
    alone = page.results[0] if len(page.results) == 1 else None
    return {
        "scale": Scale.around([0.0, h.value, h.low, h.high]) if h and h.is_difference and is_number(h.value) else None,
        "networks": _networks(alone, page.links) if alone and not alone.has_printed else [],
    }


def _networks(result: Result, links: Mapping[str, Sequence[tuple[int, str]]]) -> list[Values]:
    """Each network's errors as dots on a common axis, its costs beside those of the first one, and its runs."""
    main = result.main
    scale = Scale.around(e for row in result.rows for e in row.errors[main].by_seed)
    differences = {d.row: d for d in result.differences if d.measure == main and d.minus == result.rows[0].name}
    few = 0 < result.eval_images < COUNTED and not result.of.higher
    networks = []
    for i, row in enumerate(result.rows):
        errors = [e for e in row.errors[main].by_seed if is_number(e)]
        seeds = f"{len(errors)} seed{'' if len(errors) == 1 else 's'}"
        networks.append(
            {
                "name": row.name,
                "colour": f"var(--c{i % COLOURS})",
                "errors": row.errors[main],
                "dots": [(scale.place(e), f"{number(e)} %") for e in errors],
                "scale": scale,
                "seeds": seeds,
                "label": f"{seeds}: {', '.join(map(number, errors))} %",
                "counts": f"{_counts(errors, result.eval_images)} of {result.eval_images}" if few and errors else "",
                "costs": _costs(row, result.rows[0] if i else None, differences.get(row.name)),
                "links": links.get(row.name, ()),
            }
        )
    return networks


def _counts(errors: Sequence[float], images: int) -> str:
    """Wrong answers of each run: "1", "1 to 3"."""
    low, high = (round(f(errors) * images / 100) for f in (min, max))
    return f"{low}" if low == high else f"{low} to {high}"


def _costs(row: RowResult, first: RowResult | None, d: Difference | None) -> list[tuple[str, str, str]]:
    """Name, value and excess over the first network, in percent, of parameters, multiply-adds and time per step."""
    costs = []
    for field, name in (("params", "parameters"), ("macs", "multiply-adds"), ("step_ms", "ms per step")):
        value, base = getattr(row, field), getattr(first, field, None)
        if value is not None:
            shown = number(value, 1) if field == "step_ms" else short(value)
            more = f"{number(100 * value / base - 100, 1, signed=True)} %" if base else ""
            if d is not None and field == "step_ms" and d.is_step_noise:
                more += ", within noise"
            costs.append((name, shown, more))
    return costs


def results(page: Page) -> Values | None:
    """Tables beside the paper's figures, and the differences as intervals.

    A comparison of two networks has both in the overview already.
    """
    is_printed = any(result.has_printed for result in page.results)
    is_in_overview = len(page.results) == 1 and not is_printed
    if not page.results or (is_in_overview and page.results[0].difference and not page.results[0].failed):
        return None
    return {
        "title": "Ours beside the paper's" if is_printed else "Differences",
        "tables": [
            {
                "result": result,
                "table": None if is_in_overview else _table(result),
                "differences": [
                    _differences(measure, [d for d in result.differences if d.measure == measure], result)
                    for measure in result.shown
                    if any(d.measure == measure for d in result.differences)
                ],
                "notes": [
                    *(f"Failed: {name}: {why}" for name, why in result.failed.items()),
                    *(f"{row.name}: {row.note}" for row in result.rows if row.note),
                    *([f"The paper's run: {result.paper_run}"] if result.paper_run else []),
                ],
            }
            for result in page.results
        ],
    }


def _table(result: Result) -> Values:
    columns = ["row"]
    for measure in result.shown:
        columns += [f"{result.measures[measure]}, %", *(["the paper's"] if result.has_printed else [])]
    rows = []
    for row in result.rows:
        figures = []
        for errors in (row.errors[measure] for measure in result.shown):
            figures += [errors.text or NONE, *([number(errors.printed)] if result.has_printed else [])]
        rows.append([row.name, *figures, count(row.finished if row.runs else None), count(row.params)])
    return {"columns": [*columns, "n", "parameters"], "rows": rows}


def _differences(measure: str, differences: Sequence[Difference], result: Result) -> Values:
    rows = []
    for d in differences:
        notes = [interval(d.low, d.high, signed=True), f"n = {d.seeds}"]
        if d.printed is not None:
            notes.append(f"paper {number(d.printed, signed=True)}")
        rows.append({"difference": d, "note": ", ".join(filter(None, [*notes, d.verdict]))})
    return {
        "caption": f"Differences in {result.measures[measure]}",
        "word": result.of.word,
        "ends": ("lower AP", "higher AP") if result.of.higher else ("fewer errors", "more errors"),
        "scale": Scale.around(v for d in differences for v in (0.0, d.mean, d.low, d.high, d.printed)),
        "rows": rows,
        "is_printed": any(d.printed is not None for d in differences),
    }


def curves(page: Page) -> Values | None:
    """Error, loss and learning rate over the epochs."""
    if not any(any(runs) for runs in page.curves.values()):
        return None
    parts = dict.fromkeys(epoch.part for runs in page.curves.values() for run in runs for epoch in run[:1])
    words = " or ".join(PARTS.get(part, part) for part in parts)
    first = next(run[0] for runs in page.curves.values() for run in runs if run)
    title = "AP and loss" if DETECTION.main in first.measured else "Error and loss"
    return {"has_seeds": max(map(len, page.curves.values())) > 1, "what": words, "title": title}


def gates(page: Page) -> Values | None:
    """The channel that tells classes apart best, and the gate explorer."""
    found = page.gates
    if not found or not found.units:
        return None
    ends = []
    if found.specific:
        s = found.specific
        for title, images in (("Opened by", s.openers), ("Closed by", s.closers)):
            pictures = [(found.thumbnails[str(i)], gate) for i, gate in images if str(i) in found.thumbnails]
            ends.append((title, pictures))
    return {
        "gates": found,
        "ends": [end for end in ends if end[1]],
        "worth": "" if page.kind == "Gates" else worth(found.top1_error, found.ablation, found.images),
    }


def mistakes(page: Page) -> Values | None:
    """Wrong answers, the confusion matrix, the most frequent confusions, and the calibration beside them."""
    found = page.evaluation
    if not found or not (found.confusion or found.calibration):
        return None
    pairs = worst_pairs([c.name for c in found.per_class], found.confusion)
    worst = max((pair["share"] for pair in pairs), default=1)
    return {
        "evaluation": found,
        "pairs": pairs,
        "worst": worst,
        "group": group_size(len(found.confusion)),
        "wrong": round(found.top1_error * found.images / 100),
    }


def group_size(classes: int) -> int:
    """Number of neighbouring classes that share a cell of the drawn matrix."""
    return 1 if classes <= MOST_LABELS else math.ceil(classes / 40)


def grouped(evaluation: Evaluation) -> Values | None:
    """The confusion matrix as it is drawn: with many classes, a cell is the sum over neighbouring ones."""
    matrix = evaluation.confusion
    if not matrix:
        return None
    names, step = [c.name for c in evaluation.per_class], group_size(len(matrix))
    starts = range(0, len(matrix), step)
    cells = [[sum(sum(row[b : b + step]) for row in matrix[a : a + step]) for b in starts] for a in starts]
    ends = [min(a + step, len(names)) - 1 for a in starts]
    labels = [names[a] if step == 1 else f"{names[a]} to {names[b]}" for a, b in zip(starts, ends, strict=True)]
    return {"classes": labels, "matrix": cells}


def worst_pairs(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[Values]:
    """The most frequent confusions, by their share of the images of the true class."""
    pairs: list[Values] = [
        {"truth": names[i], "answer": names[j], "images": n, "of": sum(row), "share": n / sum(row)}
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: (-pair["share"], -pair["of"]))[:PAIRS]


def classes(page: Page) -> Values | None:
    """Each class's errors, the highest first."""
    if not page.evaluation or not page.evaluation.per_class:
        return None
    ordered = sorted(page.evaluation.per_class, key=lambda c: -c.top1_error if is_number(c.top1_error) else math.inf)
    most = max((c.top1_error for c in ordered if is_number(c.top1_error)), default=0) or 1
    hard = [c for c in ordered if c.top1_error != 0]
    return {"classes": ordered, "hard": hard, "most": most, "few": MOST_LABELS, "top5": page.evaluation.has_top5}


def detection(page: Page) -> Values | None:
    """Examples beside their annotation, precision over recall, and AP by size and by class."""
    found = page.detection
    if not found:
        return None
    seen = sorted((c for c in found.per_class if c.objects), key=lambda c: -(c.ap or 0))
    curves = [
        # A unit square; recall to the right, precision upwards.
        (overlap, " ".join(f"{i},{100 * (1 - p):.1f}" for i, p in enumerate(values)), f"var(--c{k % COLOURS})")
        for k, (overlap, values) in enumerate(found.curves.items())
    ]
    figures = [(words, found.measured[m]) for m, words in DETECTION.measures.items()]
    names = dict.fromkeys(box.name for example in found.examples for box in (*example.truth, *example.found))
    colours = {name: f"var(--c{1 + k % (COLOURS - 1)})" for k, name in enumerate(names)}
    return {"found": found, "seen": seen, "curves": curves, "figures": figures, "few": MOST_LABELS, "colours": colours}


def complexity(page: Page) -> Values | None:
    """Parameters and multiply-adds by stage, and the part that is in attention units."""
    cost = page.cost
    if not cost:
        return None
    return {
        "cost": cost,
        "most": {"params": max(r.params for r in cost.rows), "macs": max(r.macs for r in cost.rows)},
        "most_se": {
            "params": max(r.se_params / (r.params or 1) for r in cost.rows),
            "macs": max(r.se_macs / (r.macs or 1) for r in cost.rows),
        },
        "total": {
            "params": cost.params,
            "macs": cost.macs,
            "se_params": cost.params - cost.params_without_se,
            "se_macs": cost.macs - cost.macs_without_se,
        },
        "has_se": any(r.se_params or r.se_macs for r in cost.rows),
    }


def provenance(page: Page) -> Values | None:
    """The commands, the recipe and the environment that produce the same again."""
    environment = to_dict(page.environment) if page.environment else {}
    if page.seeds:
        environment = {"seed" if len(page.seeds) == 1 else "seeds": ", ".join(map(str, page.seeds))} | environment
    recipe = yaml.safe_dump(to_dict(page.recipe), sort_keys=False, width=72) if page.recipe else ""
    if not page.commands and not recipe and not environment:
        return None
    return {"recipe": recipe, "environment": {name: str(v) for name, v in environment.items() if v not in (None, "")}}
