"""The picture of a page for link previews: 1200 x 630 pixels."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

from senet.plotting import COLOURS, INK, SOFT, label, look, new_figure, save
from senet.recipes.task import TASKS
from senet.report.page import Page
from senet.report.words import number


def draw_card(path: Path, page: Page) -> None:
    """Draw title, sentence and errors by epoch of a page to a PNG; RunError where it cannot be written."""
    from matplotlib.patches import Rectangle

    with look():
        figure = new_figure(12, 6.3)
        figure.set_layout_engine("none")
        for i, height in enumerate((0.5, 1.0, 0.3, 0.75)):
            bar = Rectangle((0.055 + 0.013 * i, 0.86), 0.009, 0.055 * height, color=COLOURS[1])
            figure.add_artist(bar)
        figure.text(0.115, 0.862, f"senet  ·  {page.kind}", fontsize=17, color=SOFT)
        title = textwrap.fill(label(page.title), 44, max_lines=2, placeholder="…")
        figure.text(0.055, 0.80, title, fontsize=33, fontweight="bold", va="top")
        below = 0.80 - 0.105 * (1 + title.count("\n"))
        sentence = textwrap.fill(label(page.sentence or page.subtitle), 70, max_lines=3, placeholder="…")
        figure.text(0.055, below, sentence, fontsize=21, va="top", color=INK, linespacing=1.35)
        below -= 0.065 * (1 + sentence.count("\n")) + 0.1
        curves = {name: runs for name, runs in page.curves.items() if any(runs)}
        h = page.headline
        if curves:
            first = next(run[0] for runs in curves.values() for run in runs if run)
            main = next(task.main for task in TASKS.values() if task.main in first.measured)
            axes = figure.add_axes((0.1, 0.1, 0.845, max(below - 0.1, 0.2)))
            for i, (name, runs) in enumerate(list(curves.items())[: len(COLOURS)]):
                for n, run in enumerate(runs):
                    values = [math.nan if (v := epoch.measured[main]) is None else v for epoch in run]
                    colour = COLOURS[i if len(curves) > 1 else 1]
                    axes.plot(
                        range(1, len(run) + 1), values, color=colour, linewidth=3, label=None if n else label(name)
                    )
            axes.set_yscale("symlog", linthresh=1)
            axes.set_ylim(0, 100)
            axes.set_yticks((0, 1, 10, 100), ("0 %", "1 %", "10 %", "100 %"))
            axes.set_xticks([])
            axes.tick_params(labelsize=14)
            axes.minorticks_off()
            axes.grid(axis="y")
            axes.spines["left"].set_visible(False)
            if len(curves) > 1:
                axes.legend(fontsize=15)
        elif h:
            figure.text(
                0.055, 0.1, f"{number(h.value, signed=h.is_difference)} {h.unit}", fontsize=54, color=COLOURS[1]
            )
        save(figure, path, dpi=100)
