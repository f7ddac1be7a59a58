"""The report as one HTML file: style, scripts and data inside it, and no request to anywhere."""

from __future__ import annotations

from importlib.resources import files

from senet import __version__
from senet.report.markup import Markup, data_script, join, tag
from senet.report.page import Metrics, Page
from senet.report.sections import SECTIONS, grouped

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
"""What the browser may load: nothing but what stands in the file."""

DRAWN = ("epoch", "lr", "train_loss", "train_error", "test_loss", "test_top1_error")
"""Columns of metrics.csv that the curves show."""

SCRIPTS = ("draw.js", "curves.js", "matrix.js", "gates.js", "page.js")


def build(page: Page) -> str:
    """A page of values as HTML, complete in itself.

    >>> "<h1" in build({"title": "a < b", "kind": "run"}) and "a &lt; b" in build({"title": "a < b"})
    True
    """
    shown = {name: (word, made) for name, (word, make) in SECTIONS.items() if (made := make(page)) is not None}
    links = [tag("li", tag("a", word, href=f"#{name}")) for name, (word, _) in shown.items()]
    data = {key: page.get(key) for key in ("gates", "calibration")}
    data |= {"curves": thin(page.get("curves", {})), "confusion": grouped(page)}
    title = page.get("title", "Report")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"senet {__version__}"),
        tag("title", f"{title} · senet"),
        Markup(f"<style>{_asset('style.css')}</style>"),
    )
    scripts = "\n".join(_asset(name) for name in SCRIPTS)
    body = tag(
        "body",
        tag("a", "Skip to the report", class_="skip", href="#main"),
        tag(
            "header",
            tag("a", "senet", class_="brand", href="#overview"),
            tag("nav", tag("ul", links), aria_label="Sections"),
            tag("button", tag("span", "Dark", class_="word"), id="theme", type="button", aria_pressed="false"),
            class_="top",
        ),
        tag("main", [made for _, made in shown.values()], id="main", tabindex=-1),
        tag("footer", tag("p", f"Written by senet {__version__}. One file, no request to anywhere.")),
        data_script("data", data),
        Markup(f'<script>"use strict";(() => {{\n{scripts}\n}})();</script>'),
    )
    return join(Markup("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n")


def thin(curves: dict[str, list[list[Metrics]]]) -> dict[str, list[list[Metrics]]]:
    """The columns that are drawn, in five digits: a run of 200 epochs takes 30 kB."""
    return {
        name: [[{key: float(f"{row[key]:.5g}") for key in DRAWN if key in row} for row in history] for history in runs]
        for name, runs in curves.items()
    }


def _asset(name: str) -> str:
    return (files("senet.report") / "assets" / name).read_text(encoding="utf-8")
