"""What commands print: tables, JSON, and progress that stays out of the way of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return rows of text as aligned columns, with a line below the first row.

    Args:
        rows: cells, row by row; the first row is the head.
        left: indices of the columns that are aligned to the left; the others are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def print_json(values: Any) -> None:
    """Print a result for a program to read."""
    print(json.dumps(values, indent=2))


@contextmanager
def progress(as_json: bool) -> Iterator[None]:
    """Send what is printed inside to standard error if standard output is for JSON."""
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        yield
