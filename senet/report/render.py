"""A page as one HTML file: style, scripts and data are inside it, and it loads nothing.

The templates escape every value, so names in a page are never markup. Text, tables and simple bars are HTML and need
no scripts. Charts that a reader moves through (curves, gates, matrices) are drawn by the scripts in `assets/` from the
JSON in the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from senet import __version__
from senet.config import to_dict
from senet.recipes.task import TASKS, Panel
from senet.report import sections, words
from senet.report.page import Page
from senet.runs.metrics import Epoch

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
"""The Content Security Policy: the browser may load nothing from outside the file."""

ICON = (
    "data:image/svg+xml,"
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Cg fill='%23c84f14'%3E"
    "%3Crect x='3' y='14' width='5' height='15' rx='1'/%3E%3Crect x='10' y='3' width='5' height='26' rx='1'/%3E"
    "%3Crect x='17' y='20' width='5' height='9' rx='1'/%3E%3Crect x='24' y='9' width='5' height='20' rx='1'/%3E"
    "%3C/g%3E%3C/svg%3E"
)
"""Four channels behind their gates."""

SECTIONS = {
    "overview": ("Overview", sections.overview),
    "results": ("Results", sections.results),
    "curves": ("Curves", sections.curves),
    "gates": ("Gates", sections.gates),
    "mistakes": ("Mistakes", sections.mistakes),
    "classes": ("Classes", sections.classes),
    "detection": ("Detections", sections.detection),
    "complexity": ("Complexity", sections.complexity),
    "provenance": ("Provenance", sections.provenance),
}
"""Name of a template -> its word in the navigation, and the function from a page to its values, in order."""

SCRIPTS = ("draw.js", "curves.js", "matrix.js", "gates.js", "page.js")


def render(page: Page, *, card: str = "") -> str:
    """Return the page as HTML; `card`: address of its picture for link previews, relative to the page.

    >>> "a &lt; b</h1>" in render(Page(kind="Run", title="a < b"))
    True
    """
    shown = {name: values for name, (_, make) in SECTIONS.items() if (values := make(page)) is not None}
    return (
        _templates()
        .get_template("page.html")
        .render(
            page=page,
            shown=shown,
            titles={name: word for name, (word, _) in SECTIONS.items()},
            data=finite(drawn(page)),
            policy=POLICY,
            card=card,
            icon=ICON,
            version=__version__,
            style=_asset("style.css"),
            scripts=Markup("\n").join(map(_asset, SCRIPTS)),
        )
    )


def drawn(page: Page) -> dict[str, Any]:
    """The values that the scripts draw. Five digits are enough for curves: 200 epochs take 30 kB."""
    epochs = [epoch for runs in page.curves.values() for run in runs for epoch in run[:1]]
    panels = next((task.panels for task in TASKS.values() if epochs and task.main in epochs[0].measured), ())
    return {
        "curves": {
            name: [[_drawn_epoch(epoch, panels) for epoch in run] for run in runs] for name, runs in page.curves.items()
        },
        "panels": [{"title": p.title, "test": f"eval_{p.measured}", "train": f"train_{p.trained}"} for p in panels],
        "gates": to_dict(page.gates) if page.gates else None,
        "confusion": sections.grouped(page.evaluation) if page.evaluation else None,
        "calibration": to_dict(page.evaluation.calibration)
        if page.evaluation and page.evaluation.calibration
        else None,
    }


def _drawn_epoch(epoch: Epoch, panels: Sequence[Panel]) -> dict[str, float | None]:
    row = epoch.row()
    keys = ["epoch", "lr", *(f"train_{p.trained}" for p in panels), *(f"eval_{p.measured}" for p in panels)]
    values = {key: row[key] for key in keys if key in row}
    return {key: None if value is None else float(f"{value:.5g}") for key, value in values.items()}


def finite(value: Any) -> Any:
    """The value with None for every NaN and infinity in it, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: finite(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("senet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` also escapes <, > and &, so that data cannot end its script element.
    templates.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    for function in (words.cell, words.count, words.interval, words.number, words.short):
        templates.filters[function.__name__] = function
    templates.tests["finite"] = words.is_number
    return templates


def _asset(name: str) -> Markup:
    return Markup((files("senet.report") / "assets" / name).read_text(encoding="utf-8"))
