"""A page as one HTML file: style, scripts and data are inside it, and it loads nothing.

The templates escape every value, so names in a page are never markup. Text, tables and simple bars are HTML and need
no scripts. Charts that a reader moves through (curves, gates, matrices) are drawn by the scripts in `assets/` from the
JSON in the page.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from senet import __version__
from senet.config import to_dict
from senet.report import sections, words
from senet.report.page import Page

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
"""The Content Security Policy: the browser may load nothing from outside the file."""

SECTIONS = {
    "overview": ("Overview", sections.overview),
    "results": ("Results", sections.results),
    "curves": ("Curves", sections.curves),
    "gates": ("Gates", sections.gates),
    "confusion": ("Confusion", sections.confusion),
    "classes": ("Classes", sections.classes),
    "calibration": ("Calibration", sections.calibration),
    "complexity": ("Complexity", sections.complexity),
    "provenance": ("Provenance", sections.provenance),
}
"""Name of a template -> its word in the navigation, and the function from a page to its values, in order."""

DRAWN = ("epoch", "lr", "train_loss", "train_error", "test_loss", "test_top1_error")
"""Fields of `Epoch` that the curves show."""

SCRIPTS = ("draw.js", "curves.js", "matrix.js", "gates.js", "page.js")


def render(page: Page) -> str:
    """Return the page as HTML.

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
            version=__version__,
            style=_asset("style.css"),
            scripts=Markup("\n").join(map(_asset, SCRIPTS)),
        )
    )


def drawn(page: Page) -> dict[str, Any]:
    """The values that the scripts draw. Five digits are enough for curves: 200 epochs take 30 kB."""
    return {
        "curves": {
            name: [[{key: float(f"{getattr(epoch, key):.5g}") for key in DRAWN} for epoch in run] for run in runs]
            for name, runs in page.curves.items()
        },
        "gates": to_dict(page.gates) if page.gates else None,
        "confusion": sections.grouped(page.evaluation) if page.evaluation else None,
        "calibration": to_dict(page.evaluation.calibration)
        if page.evaluation and page.evaluation.calibration
        else None,
    }


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
