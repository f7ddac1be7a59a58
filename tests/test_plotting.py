"""Any name can stand in a figure; a warning of matplotlib's is an error here."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from PIL import Image

from senet.experiments.plots import plot_result
from senet.plotting import COLOURS, label, new_figure, save
from tests.report.pages import comparison

NAMES = [
    *("5$_$10", "$", "$x", r"\$5", r"$\frac$", "_background_", "__", "a_b^c", "%d", "{x}", "<b>&amp;</b>"),
    *("猫", "🐈", "naïve café", "кошка", "قط", "tench, Tinca tinca", 'a "quoted" one'),
    *("b\udcb9", "line\nbreak", "tab\t", "\x00", "\u200b", " "),
]


def test_any_name_is_drawn(tmp_path: Path) -> None:
    figure = new_figure(4, 8)
    axes = figure.subplots()
    for name in NAMES:
        axes.plot([0, 1], label=label(name))
    axes.set_title(label(NAMES[0]))
    axes.set_yticks(range(len(NAMES)), [label(name) for name in NAMES])
    shown = [text.get_text().strip() for text in axes.legend().get_texts()]
    assert shown == [label(name).strip() for name in NAMES]
    for ending in ("png", "svg"):
        save(figure, tmp_path / f"figure.{ending}", dpi=50)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size == (200, 400)
    assert (tmp_path / "figure.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_letters_are_shown_as_they_are_or_by_their_number() -> None:
    assert [label(name) for name in ("5$_$10", r"\$5", "naïve café", "кошка")] == [
        *("5$_$10", r"\$5", "naïve café", "кошка")
    ]
    assert label("b\udcb9") == r"b\udcb9"
    assert label("a\nb") == r"a\nb"
    # Two names that no font here has stay two.
    assert label("猫") != label("犬")


def test_a_result_of_any_name(tmp_path: Path) -> None:
    for name in ("$5 and $6$_", "猫 against 犬"):
        plot_result(tmp_path / "a.png", replace(comparison(), title=name))
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 600


def test_figures_and_pages_have_one_palette() -> None:
    style = (files("senet.report") / "assets" / "style.css").read_text(encoding="utf-8")
    assert tuple(re.findall(r"--c\d: light-dark\((#\w+),", style)) == COLOURS
