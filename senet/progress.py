"""Progress: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import math
import sys
from typing import Any

from tqdm import tqdm

FIRST_S, MOST_S = 2.0, 60.0
"""Seconds until the first line, and between two lines at the most; in between, each comes after twice the time."""


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm on standard error.

    Args:
        args: As for tqdm; so `options`.
        show: Whether to show anything.
        first: Seconds until the first line, where standard error is no terminal.
    """

    def __init__(self, *args: Any, show: bool = True, first: float = FIRST_S, **options: Any) -> None:
        self.is_bar = sys.stderr.isatty()
        self.due = first
        pace = {} if self.is_bar else {"mininterval": 1.0}
        super().__init__(*args, file=sys.stderr, leave=False, disable=not show, **(pace | options))

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        """Draw the bar, or print a line where one is due."""
        if self.is_bar:
            return bool(super().display(msg, pos))
        state = self.format_dict
        elapsed, n, total = state["elapsed"], state["n"], state["total"]
        if n and elapsed >= self.due:
            self.due = elapsed + min(elapsed, MOST_S)
            name = f"{self.desc}: ".replace(": : ", ": ") if self.desc else ""
            units = f"{self.unit}es" if self.unit.endswith("ch") else f"{self.unit}s"
            count = f"{n:,} of {total:,} {units}" if total else f"{n:,} {units}"
            left = f", about {self.format_interval(elapsed * (total - n) / n)} left" if total else ""
            print(f"{name}{count}, {self.format_interval(elapsed)}{left}", file=sys.stderr, flush=True)
        return True

    def close(self) -> None:
        """End."""
        if not self.is_bar:
            # Without this, tqdm returns the carriage of a bar that was never drawn.
            self.delay = math.inf
        super().close()

    def clear(self, nolock: bool = False) -> None:
        """Remove the bar."""
        if self.is_bar:
            super().clear(nolock)


def span(seconds: float) -> str:
    """A time in words: "45 s", "12 min", "3.5 h", "4 days"."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 86400:,.0f} days"
