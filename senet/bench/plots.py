"""Plot costs against a quantity such as the image size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senet.bench.result import Ratio
from senet.plotting import COLOURS, INK, label, look, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_cost(path: Path, curves: Mapping[str, Sequence[tuple[float, Ratio]]], *, x: str, y: str, title: str) -> None:
    """Draw ratios with their 95 % intervals as a PNG; missing ratios leave a gap.

    Args:
        path: The file.
        curves: Name -> (x, ratio) pairs.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        title: The title.

    Raises:
        RunError: If the file cannot be written.
    """
    with look():
        save(_figure(curves, x=x, y=y, title=title), path)


def _figure(curves: Mapping[str, Sequence[tuple[float, Ratio]]], *, x: str, y: str, title: str) -> Figure:
    from matplotlib.ticker import NullFormatter

    figure = new_figure(7.5, 4.4)
    axes = figure.subplots()
    axes.axhline(1, color=INK, linewidth=0.8)
    places = sorted({place for curve in curves.values() for place, _ in curve})
    for i, (name, curve) in enumerate(curves.items()):
        found = [(place, r.value, r.low, r.high) for place, r in curve if r.value is not None]
        if not found:
            continue
        at, middle, low, high = zip(*found, strict=True)
        # Shifted, so that no interval hides another.
        beside = [place * 2 ** (0.02 * (i - (len(curves) - 1) / 2)) for place in at]
        reach = ([m - w for m, w in zip(middle, low, strict=True)], [w - m for m, w in zip(middle, high, strict=True)])
        axes.errorbar(
            beside,
            middle,
            reach,
            fmt="o-",
            color=COLOURS[i % len(COLOURS)],
            label=label(name),
            markersize=4,
            elinewidth=1,
            capsize=2.5,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid()
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure
