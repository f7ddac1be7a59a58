"""An experiment's differences as a picture."""

from __future__ import annotations

from pathlib import Path

from senet.experiments.experiment import TOP1
from senet.experiments.result import Result
from senet.training.plots import new_figure, save_png

OURS, PAPER, ZERO = "#d1495b", "#30638e", "#8d99a6"


def plot_result(path: Path, result: Result) -> None:
    """Draw the differences of top-1 error to a PNG: mean, interval and single seeds, and the paper's.

    Where nothing is compared, the rows' errors are drawn.

    Raises:
        RunError: The file cannot be written.
    """
    errors = {row.name: row.errors[TOP1] for row in result.rows}
    differences = [d for d in result.differences if d.measure == TOP1]
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
            axes.plot([printed], [y], "D", color=PAPER, markerfacecolor="white")
    if any(printed is not None for *_, printed in lines):
        axes.plot([], [], "D", color=PAPER, markerfacecolor="white", linestyle="", label="the paper")
    if differences:
        axes.axvline(0, color=ZERO, linewidth=1)
    axes.set_yticks(range(len(lines)), [line[0] for line in lines])
    axes.set_ylim(max(1, len(lines)) - 0.5, -0.5)
    axes.set_xlabel("difference of top-1 error, points (left is better)" if differences else "top-1 error, %")
    axes.set_title(f"{result.name}: {result.title}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    if lines:
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    save_png(figure, path)
