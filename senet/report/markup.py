"""HTML that is escaped by construction: text becomes markup only through `tag`."""

from __future__ import annotations

import html
import json
import math
from typing import Any

VOID = {"meta", "input", "br", "img"}


class Markup(str):
    """Text that is HTML already; any other text is escaped by `tag`."""

    __slots__ = ()


def join(*children: Any) -> Markup:
    """Children one after the other: markup as it is, other values as escaped text, None as nothing, lists flattened."""
    parts = []
    for child in children:
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Markup) else html.escape(str(child)))
    return Markup("".join(parts))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. An attribute's `_` is written `-`, a last `_` dropped; True writes its name alone, None nothing.

    >>> tag("td", "a < b", class_="number", data_k=3)
    '<td class="number" data-k="3">a &lt; b</td>'
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{html.escape(str(value))}"'
    opening = Markup(f"<{name}{written}>")
    return opening if name in VOID else Markup(f"{opening}{join(*children)}</{name}>")


def data_script(name: str, value: Any) -> Markup:
    """Values for the scripts of the page, as JSON that cannot end its element; what is not finite becomes null."""
    text = json.dumps(finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None
