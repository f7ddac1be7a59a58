"""Numbers as text."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2, *, signed: bool = False) -> str:
    """A number with this many decimals and a typographic minus; a dash for None, NaN and infinity. Zero has no sign.

    >>> number(-0.416, signed=True), number(3), number(-0.001, signed=True), number(None)
    ('\N{MINUS SIGN}0.42', '3.00', '0.00', '\N{EN DASH}')
    """
    if not is_number(value):
        return NONE
    value = round(value, digits) or 0.0
    text = f"{value:+,.{digits}f}" if signed and value else f"{value:,.{digits}f}"
    return text.replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with commas.

    >>> count(271807)
    '271,807'
    """
    return number(value, 0)


def short(value: Any) -> str:
    """A large number in three digits.

    >>> short(3860488192), short(271807), short(42)
    ('3.86 G', '272 k', '42')
    """
    if not is_number(value):
        return NONE
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:g}"


def cell(value: Any) -> str:
    """A cell of a table: text as it is, whole numbers with commas, others with two decimals."""
    if isinstance(value, str):
        return value
    return count(value) if isinstance(value, int) else number(value)


def interval(low: Any, high: Any, *, signed: bool = False) -> str:
    """ "1.20 to 3.40"; "" without both ends."""
    if not is_number(low) or not is_number(high):
        return ""
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}"
