"""The values of each section's template. A function returns None where the page has nothing for its section."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from senet.config import to_dict
from senet.experiments.experiment import TOP1
from senet.experiments.result import Difference, Result, RowResult
from senet.report.page import Page
from senet.report.words import NONE, count, interval, is_number, number, short
from senet.runs.evaluation import Evaluation

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
        step = 10 ** math.floor(math.log10(max(high - low, 1e-3))) / 2
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
        "networks": _networks(alone) if alone and not alone.has_printed else [],
    }


def _networks(result: Result) -> list[Values]:
    """Each network's errors as dots on a common axis, and its costs beside those of the first one."""
    scale = Scale.around(e for row in result.rows for e in row.errors[TOP1].by_seed)
    networks = []
    for i, row in enumerate(result.rows):
        errors = [e for e in row.errors[TOP1].by_seed if is_number(e)]
        seeds = f"{len(errors)} seed{'' if len(errors) == 1 else 's'}"
        networks.append(
            {
                "name": row.name,
                "colour": f"var(--c{i % COLOURS})",
                "errors": row.errors[TOP1],
                "dots": [(scale.place(e), f"{number(e)} %") for e in errors],
                "scale": scale,
                "seeds": seeds,
                "label": f"{seeds}: {', '.join(map(number, errors))} %",
                "costs": _costs(row, result.rows[0] if i else None),
            }
        )
    return networks


def _costs(row: RowResult, first: RowResult | None) -> list[tuple[str, str, str]]:
    """Name, value and excess over the first network, in percent, of parameters, multiply-adds and time per step."""
    costs = []
    for field, name in (("params", "parameters"), ("macs", "multiply-adds"), ("step_ms", "ms per step")):
        value, base = getattr(row, field), getattr(first, field, None)
        if value is not None:
            shown = number(value, 1) if field == "step_ms" else short(value)
            costs.append((name, shown, f"{number(100 * value / base - 100, 1, signed=True)} %" if base else ""))
    return costs


def results(page: Page) -> Values | None:
    """Tables beside the paper's figures, and the differences as intervals.

    A comparison of two networks has both in the overview already.
    """
    is_printed = any(result.has_printed for result in page.results)
    is_in_overview = len(page.results) == 1 and not is_printed
    if not page.results or (is_in_overview and len(page.results[0].differences) < 2 and not page.results[0].failed):
        return None
    return {
        "title": "Ours beside the paper's" if is_printed else "Differences",
        "tables": [
            {
                "result": result,
                "table": None if is_in_overview else _table(result),
                "differences": [
                    _differences(result.measures[measure], [d for d in result.differences if d.measure == measure])
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


def _differences(measure: str, differences: Sequence[Difference]) -> Values:
    rows = []
    for d in differences:
        notes = [interval(d.low, d.high, signed=True), f"n = {d.seeds}"]
        if d.printed is not None:
            notes.append(f"paper {number(d.printed, signed=True)}")
        rows.append({"difference": d, "note": ", ".join(filter(None, [*notes, d.verdict]))})
    return {
        "caption": f"Differences in {measure}",
        "scale": Scale.around(v for d in differences for v in (0.0, d.mean, d.low, d.high, d.printed)),
        "rows": rows,
        "is_printed": any(d.printed is not None for d in differences),
    }


def curves(page: Page) -> Values | None:
    """Error, loss and learning rate over the epochs."""
    if not any(any(runs) for runs in page.curves.values()):
        return None
    return {"has_seeds": max(map(len, page.curves.values())) > 1}


def gates(page: Page) -> Values | None:
    """The gate explorer."""
    return {"gates": page.gates} if page.gates and page.gates.units else None


def confusion(page: Page) -> Values | None:
    """The confusion matrix and the most frequent confusions."""
    found = page.evaluation
    if not found or not found.confusion:
        return None
    pairs = worst_pairs([c.name for c in found.per_class], found.confusion)
    worst = max((pair["share"] for pair in pairs), default=1)
    return {"pairs": pairs, "worst": worst, "group": group_size(len(found.confusion))}


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
    return {"classes": ordered, "most": most, "few": MOST_LABELS}


def calibration(page: Page) -> Values | None:
    """How often answers are right, by confidence."""
    found = page.evaluation and page.evaluation.calibration
    return {"calibration": found} if found else None


def complexity(page: Page) -> Values | None:
    """Parameters and multiply-adds by stage, and the part that is in attention units."""
    cost = page.cost
    if not cost:
        return None
    return {
        "cost": cost,
        "most": {"params": max(r.params for r in cost.rows), "macs": max(r.macs for r in cost.rows)},
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
