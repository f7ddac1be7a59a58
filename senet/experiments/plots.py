"""An experiment's differences as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from senet.experiments.result import Result
from senet.plotting import COLOURS, FAINT, label, look, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, PAPER = COLOURS[1:3]


def plot_result(path: Path, result: Result) -> None:
    """Draw the differences of the first measure to a PNG: mean, interval and single seeds, and the paper's.

    Where nothing is compared, the rows' errors are drawn.

    Raises:
        RunError: The file cannot be written.
    """
    with look():
        save(_figure(result), path)


def _figure(result: Result) -> Figure:
    errors = {row.name: row.errors[result.main] for row in result.rows}
    differences = [d for d in result.differences if d.measure == result.main]
    # A line: label, points, mean, interval, and the paper's figure.
    lines: list[tuple[str, list[float], float, tuple[float, float] | None, float | None]] = []
    for d in differences:
        pairs = zip(errors[d.row].by_seed, errors[d.minus].by_seed, strict=True)
        gaps = [a - b for a, b in pairs if a is not None and b is not None]
        interval = None if d.low is None or d.high is None else (d.low, d.high)
        lines.append((d.label, gaps, d.mean, interval, d.printed))
    if not differences:
        for name, e in errors.items():
            if e.mean is not None:
                lines.append((name, [v for v in e.by_seed if v is not None], e.mean, None, e.printed))

    figure = new_figure(7.5, 1.4 + 0.42 * max(1, len(lines)))
    axes = figure.add_subplot()
    for y, (_, points, mean, interval, printed) in enumerate(lines):
        axes.plot(points, [y] * len(points), "|", color=OURS, alpha=0.5, markersize=9)
        if interval is not None:
            axes.plot(interval, [y, y], "-", color=OURS, linewidth=1.8)
        axes.plot([mean], [y], "o", color=OURS, label="ours: mean, seeds, 95 % interval" if y == 0 else None)
        if printed is not None:
            axes.plot([printed], [y], "D", color=PAPER, fillstyle="none")
    if any(printed is not None for *_, printed in lines):
        axes.plot([], [], "D", color=PAPER, fillstyle="none", linestyle="", label="the paper")
    if differences:
        axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(lines)), [label(line[0]) for line in lines])
    axes.set_ylim(max(1, len(lines)) - 0.5, -0.5)
    name, side = result.measures[result.main], "right" if result.of.higher else "left"
    axes.set_xlabel(f"difference of {name}, points ({side} is better)" if differences else f"{name}, %")
    axes.set_title(label(f"{result.name}: {result.title}"), wrap=True)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)
    if lines:
        figure.legend(loc="outside lower right", ncols=2, fontsize=8)
    return figure
