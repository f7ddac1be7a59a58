"""`senet tables`: our parameters and multiply-adds beside the paper's."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from senet.cli.output import print_json, table
from senet.cli.parse import Parser
from senet.errors import unknown
from senet.paper.complexity import MACS_DIGITS, PARAMS_DIGITS, Printed, agrees, complexity

DESCRIPTION = """Compare our parameters and multiply-adds with the paper's.

complexity: Tables 2, 3, 10, 13, 15 and 16. We count convolutions and fully connected layers, those of SE units
included; the paper does not follow one rule. A note says why a figure cannot be reproduced."""

TABLES = ("complexity",)

TITLES = {
    2: "ImageNet networks",
    3: "mobile networks",
    10: "reduction ratio of SE-ResNet-50",
    13: "SE in single stages of ResNet-50",
    15: "SE inside the bottleneck",
    16: "with and without the squeeze",
}


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("tables", "[complexity]", DESCRIPTION, examples=("senet tables complexity --json",))
    parser.word("TABLES", count="?", help="complexity")
    parser.json()
    line = parser.read(argv)
    if line["TABLES"] not in ("", *TABLES):
        raise unknown("TABLES", line["TABLES"], TABLES, kind="tables")

    rows = [_compare(printed) for printed in complexity()]
    if line["json"]:
        print_json(rows)
        return 0
    for number, group in groupby(rows, key=lambda row: row["table"]):
        _print_table(number, list(group))
    return 0


def _compare(printed: Printed) -> dict[str, Any]:
    """Return a row: our figures, the paper's, and the gap in percent."""
    from senet.models.describe import describe

    cost = describe(printed.net)
    row: dict[str, Any] = {"table": printed.table, "row": printed.row, "params": cost.params, "macs": cost.macs}
    for name, ours, theirs, unit, digits, note in (
        ("params", cost.params, printed.params, 1e6, PARAMS_DIGITS, printed.params_note),
        ("macs", cost.macs, printed.macs, printed.unit, MACS_DIGITS[printed.unit], printed.macs_note),
    ):
        if theirs is not None:
            row[f"paper_{name}"] = theirs
            row[f"{name}_gap_percent"] = 100 * (ours / unit / theirs - 1)
            row[f"{name}_agree"] = agrees(ours / unit, theirs, digits)
            row[f"{name}_note"] = note
    return row | {"macs_unit": printed.unit}


def _print_table(number: int, rows: list[dict[str, Any]]) -> None:
    """Print a table of the paper, and notes below it."""
    letter = "M" if rows[0]["macs_unit"] == 1e6 else "G"
    params, macs = (any(f"paper_{name}" in row for row in rows) for name in ("params", "macs"))
    columns = ["network"]
    columns += ["parameters", "paper, M", "gap"] if params else []
    columns += ["multiply-adds", f"paper, {letter}", "gap"] if macs else []
    lines, notes = [tuple(columns)], dict[str, None]()
    for row in rows:
        cells = [row["row"]]
        # With the digits that the paper prints.
        for name, shown, digits in (
            ("params", params, PARAMS_DIGITS),
            ("macs", macs, MACS_DIGITS[rows[0]["macs_unit"]]),
        ):
            if shown:
                printed, gap = row[f"paper_{name}"], row[f"{name}_gap_percent"]
                cells += [f"{row[name]:,}", f"{printed:.{digits}f}", f"{gap:+.2f} %"]
                if row[f"{name}_note"]:
                    cells[-1] += " *"
                    notes[row[f"{name}_note"]] = None
        lines.append(tuple(cells))
    print(f"Table {number}, {TITLES[number]}\n\n{table(lines, left=(0,))}")
    for note in notes:
        print(f"* {note}")
    print()
