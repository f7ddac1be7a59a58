"""Directives for tables of fields and help texts, and checks that all public names and paths are right."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import senet
from senet.config import field_docs, field_types
from senet.report.render import SCRIPTS

log = logging.getLogger(__name__)


class FieldTable(SphinxDirective):
    """`{fields} package.module.Config`: its fields as a table of name, allowed values, default and meaning.

    `:like: package.module.Other` takes from another config what the docstring does not repeat.
    """

    required_arguments = 1
    option_spec = {"like": directives.unchanged}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The table."""
        cls = _named(self.arguments[0])
        texts = field_docs(_named(self.options["like"])) if "like" in self.options else {}
        texts |= field_docs(cls)
        types_ = field_types(cls)
        rows = ["| field | values | default | meaning |", "|---|---|---|---|"]
        for field in dataclasses.fields(cls):
            text = texts.get(field.name, "").replace("|", "\\|")
            rows.append(f"| `{field.name}` | {_values(types_[field.name])} | {_default(field)} | {text} |")
        box = nodes.container(classes=["fields"])
        self.state.nested_parse(StringList(rows, self.get_source_info()[0]), self.content_offset, box)
        return [box]


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _values(hint: Any) -> str:
    """A type as a reader says it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, UnionType):
        return " or ".join("`None`" if a is type(None) else _values(a) for a in args)
    if origin is tuple:
        return f"{_values(args[0])}s" if args[-1] is Ellipsis else f"{len(args)} {_values(args[0])}s"
    words = {int: "whole number", float: "number", bool: "`true`, `false`", str: "text"}
    return words.get(hint, f"`{getattr(hint, '__name__', hint)}`")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return ""
    value = field.default
    if isinstance(value, tuple):
        value = tuple(round(v, 4) if isinstance(v, float) else v for v in value)
    return f"`{value!r}`"


class Help(SphinxDirective):
    """`{help} train`: what `senet train --help` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the text as a literal block."""
        line = [sys.executable, "-m", "senet", *self.arguments, "--help"]
        env = os.environ | {"COLUMNS": "108", "NO_COLOR": "1"}
        text = subprocess.run(line, capture_output=True, text=True, check=True, env=env).stdout
        block = nodes.literal_block(text, text.rstrip())
        block["language"] = "text"
        return [block]


def check_exports(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of a public name that no page documents."""
    described = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in senet.__all__:
        if f"senet.{name}" not in described:
            log.warning("senet.%s is public and on no page; add it to docs/reference/python", name)


def check_paths(app: Sphinx, name: str, source: list[str]) -> None:
    """Warn of a file that a page names and that is not there."""
    root = Path(app.srcdir).parent
    for path in re.findall(r"`((?:senet|tests|examples|docs|benchmarks)/[\w./]+)`", source[0]):
        if not (root / path).exists():
            log.warning("%s: names %s, which is not there", name, path)


def complete_roles(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give the theme's headings a level, and blocks that scroll the keyboard's focus, as WAI-ARIA asks."""
    for part, before, after in (
        ("furo_navigation_tree", 'role="heading"', 'role="heading" aria-level="2"'),
        ("body", '<pre class="literal-block">', '<pre class="literal-block" tabindex="0">'),
        ("body", '<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">'),
    ):
        context[part] = context.get(part, "").replace(before, after)


def write_reports(app: Sphinx, error: Exception | None) -> None:
    """Complete the pages of `docs/reports`, which `senet compare` wrote, by the package's style and scripts."""
    assets = Path(senet.__file__).parent / "report" / "assets"
    style = (assets / "style.css").read_text()
    scripts = "\n".join((assets / name).read_text() for name in SCRIPTS)
    for page in () if error else (Path(app.srcdir) / "reports").glob("*.html"):
        text = page.read_text().replace("<style></style>", f"<style>{style}</style>")
        text = text.replace("<script></script>", f'<script>"use strict";(() => {{\n{scripts}\n}})();</script>')
        (Path(app.outdir) / "_static" / page.name).write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    # After the theme's own handler, which makes the navigation.
    app.connect("html-page-context", complete_roles, priority=900)
    app.add_directive("fields", FieldTable)
    app.add_directive("help", Help)
    app.connect("source-read", check_paths)
    app.connect("env-check-consistency", check_exports)
    app.connect("build-finished", write_reports)
    return {"parallel_read_safe": True}
