"""What commands print: tables, JSON, and progress that stays out of the way of JSON."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Literal

from senet.errors import RunError

if TYPE_CHECKING:
    from senet.cli.parse import Line


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return rows of text as aligned columns, with a line below the first row.

    On a terminal that is narrower, the words of the head are stacked, columns move together, and the first one is cut.

    Args:
        rows: cells, row by row; the first row is the head.
        left: indices of the columns that are aligned to the left; the others are aligned to the right.
    """
    (*head,), *body = rows
    room = get_terminal_size().columns if sys.stdout.isatty() else math.inf
    gaps, between = len(head) - 1, "  "
    for most in range(1, 5):
        widths = [_narrowest(most, *column) for column in zip(*rows, strict=True)]
        if sum(widths) + 2 * gaps <= room:
            break
    else:
        between = " "
        over = sum(widths) + gaps - room
        widths[0] = max(min(12, widths[0]), widths[0] - int(max(over, 0)))
    stacked = [textwrap.wrap(name, width) or [""] for name, width in zip(head, widths, strict=True)]
    tall = max(map(len, stacked))
    heads = zip(*([""] * (tall - len(words)) + words for words in stacked), strict=True)
    lines = []
    for row in (*heads, *body):
        cut = [cell if len(cell) <= w else f"{cell[: w - 1]}…" for cell, w in zip(row, widths, strict=True)]
        cells = [
            cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(cut, widths, strict=True))
        ]
        lines.append(between.join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    return "\n".join([*(styled(line, "bold") for line in lines[:tall]), styled(rule, "faint"), *lines[tall:]])


def _narrowest(lines: int, name: str, *cells: str) -> int:
    """The least width of a column whose name takes at most so many lines."""
    width = max(map(len, (*name.split(), *cells)), default=0)
    while len(textwrap.wrap(name, max(width, 1))) > lines:
        width += 1
    return width


def styled(text: str, style: Literal["bold", "faint", "red", "green"], stream: Any = None) -> str:
    """The text in a style on a terminal; as it is elsewhere, or where NO_COLOR is set (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not (stream or sys.stdout).isatty()
    code = {"bold": 1, "faint": 2, "red": 31, "green": 32}[style]
    return text if plain or not text else f"\033[{code}m{text}\033[0m"


def check_free(path: Path, line: Line, otherwise: str) -> None:
    """Raise RunError for a file that exists, unless the line has --force; `otherwise`: what else can be done."""
    if path.exists() and not line["force"]:
        raise RunError(f"{path}: exists already; overwrite it with --force, or {otherwise}")


def print_json(values: Any) -> None:
    """Print a result for a program to read."""
    print(json.dumps(values, indent=2))


@contextmanager
def progress(as_json: bool) -> Iterator[None]:
    """Send what is printed inside to standard error if standard output is for JSON."""
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        yield
