"""A result as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from senet.experiments.result import Result, RowResult

LEGEND = (
    "Paired over seeds, Student's t. *agrees*: the interval excludes zero and the sign is the paper's; *disagrees*: it "
    "excludes zero and the sign is not; *open*: too few or too noisy runs to say; *equal*: the errors are the same in "
    "every seed; *clear*: the interval excludes zero, and the paper gives no figure."
)


def markdown(result: Result) -> str:
    """Tables of rows and differences, failed runs, notes, and how it differs from the paper."""
    parts = [f"# {result.name}: {result.title}", result.where, _table(_rows(result))]
    if result.differences:
        parts += [_table(_differences(result)), LEGEND]
    lists = {
        "Failed runs": [f"{name}: {why}" for name, why in result.failed.items()],
        "Notes": [f"{row.name}: {row.note}" for row in result.rows if row.note],
        "Differs from the paper": list(result.differs),
    }
    for title, items in lists.items():
        if items:
            parts += [f"{title}:", "\n".join(f"- {item}" for item in items)]
    if result.paper_run:
        parts.append(f"The paper's run: {result.paper_run}.")
    return "\n\n".join(parts) + "\n"


def _rows(result: Result) -> list[list[str]]:
    head = ["row"]
    for measure in result.shown:
        head += (
            [f"{result.measures[measure]}, %", "the paper's"]
            if result.has_printed
            else [f"{result.measures[measure]}, %"]
        )
    return [[*head, "n", "parameters", "multiply-adds"], *(_row(row, result) for row in result.rows)]


def _row(row: RowResult, result: Result) -> list[str]:
    cells = [row.name]
    for measure in result.shown:
        errors = row.errors[measure]
        printed = "" if errors.printed is None else f"{errors.printed:.2f}"
        cells += [errors.text, printed] if result.has_printed else [errors.text]
    cost = ["", ""] if row.params is None or row.macs is None else [f"{row.params:,}", f"{row.macs / 1e6:,.2f} M"]
    return [*cells, str(row.finished) if row.runs else "", *cost]


def _differences(result: Result) -> list[list[str]]:
    rows = [["difference", "measure", "ours, points", "95 % interval", "n", "the paper's", "verdict"]]
    for d in result.differences:
        if d.measure in result.shown:
            printed = "" if d.printed is None else f"{d.printed:+.2f}"
            ours = [d.label, result.measures[d.measure], f"{d.mean:+.2f}", d.interval, str(d.seeds)]
            rows.append([*ours, printed, d.verdict])
    return rows


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])
