"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.plotting import COLOURS, label, look, new_figure, save
from senet.recipes.recipe import PARTS
from senet.recipes.task import TASKS
from senet.runs.metrics import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_curves(path: Path, runs: Mapping[str, Sequence[Sequence[Epoch]]]) -> None:
    """Draw error and loss over the epochs to a PNG: validation or test images solid, training images dashed.

    Args:
        path: The file.
        runs: A network's name -> the epochs of its runs, one list per seed. With several, the line is their mean and
            the band reaches from their lowest to their highest.

    Raises:
        RunError: The file cannot be written.
    """
    with look():
        save(_curves(runs), path)


def _curves(runs: Mapping[str, Sequence[Sequence[Epoch]]]) -> Figure:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = new_figure(10, 4.2)
    first = next(iter(runs.values()))[0][0]
    panels = next(task.panels for task in TASKS.values() if task.main in first.measured)
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        drawn: list[float] = []
        for i, (name, histories) in enumerate(runs.items()):
            for key, style in ((panel.measured, "-"), (panel.trained, "--")):
                if key:
                    words = label(f"{name}, {PARTS[first.part if style == '-' else 'train']}")
                    drawn += _plot_mean(axes, histories, key, style, COLOURS[i % len(COLOURS)], words)
        smallest = 0.1 if panel.title == "Loss" else 1
        axes.set_title(panel.title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if panel.measured != "ap" and max(drawn, default=0) > 20 * min(drawn, default=0):
            # Linear up to `smallest`, so that zeros are drawn, and logarithmic above.
            ticks = [0, *(m * 10.0**e for e in range(-1, 4) for m in (1, 2, 5))]
            axes.set_yscale("symlog", linthresh=smallest)
            axes.set_yticks([t for t in ticks if t == 0 or smallest <= t <= 1.2 * max(drawn)])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(axis="y")
        # A panel of the training images alone has names of its own.
        if drawn and (panel is panels[0] or not panel.measured):
            axes.legend()
    return figure


def _plot_mean(
    axes: Any, histories: Sequence[Sequence[Epoch]], quantity: str, style: str, colour: str, words: str
) -> list[float]:
    """Draw the mean of a quantity over runs, with a band where there are several; returns all its values."""
    length = min(map(len, histories))
    of = [[epoch.measured if style == "-" else epoch.train for epoch in history] for history in histories]
    values = [(histories[0][i].epoch, [figures[i][quantity] for figures in of]) for i in range(length)]
    known = [(epoch, [v for v in column if v is not None]) for epoch, column in values if None not in column]
    epochs, columns = [epoch for epoch, _ in known], [column for _, column in known]
    axes.plot(
        epochs,
        [sum(column) / len(column) for column in columns],
        style,
        color=colour,
        label=words,
        alpha=1 if style == "-" else 0.6,
        marker="o" if length == 1 else None,
    )
    if len(histories) > 1:
        lowest, highest = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    return [value for column in columns for value in column]
