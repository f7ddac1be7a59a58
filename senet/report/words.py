"""Numbers as a reader wants them."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

NONE = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 2, *, signed: bool = False) -> str:
    """A number with so many decimals and a real minus; a dash for what is no finite number.

    >>> number(-0.416, signed=True), number(3), number(None)
    ('\N{MINUS SIGN}0.42', '3.00', '\N{EN DASH}')
    """
    if not is_number(value):
        return NONE
    text = f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}"
    return text.replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with commas; a dash for none.

    >>> count(271807)
    '271,807'
    """
    return f"{value:,.0f}" if is_number(value) else NONE


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
    """A table's cell: text as it is, whole numbers with commas, others with two decimals, a dash for none."""
    if isinstance(value, str):
        return value
    return count(value) if isinstance(value, int) else number(value)


def interval(low: Any, high: Any, *, signed: bool = False) -> str:
    """ "1.20 to 3.40", or nothing where there is none."""
    return (
        f"{number(low, signed=signed)} to {number(high, signed=signed)}" if is_number(low) and is_number(high) else ""
    )


def wilson(wrong: float, images: int) -> tuple[float, float]:
    """The 95 % interval of an error in percent that was measured on so many images (Wilson's score interval).

    >>> low, high = wilson(10.0, 100)
    >>> round(low, 2), round(high, 2)
    (5.52, 17.44)
    """
    z, p = 1.959964, wrong / 100
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    return 100 * max(0.0, middle - half), 100 * (middle + half)
