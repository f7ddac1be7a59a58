"""Learning curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.files import write_atomically
from senet.runs.metrics import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#5b6c7d", "#d1495b", "#00798c", "#edae49", "#30638e", "#6a4c93", "#8ab17d", "#b56576")


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that is drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure; RunError where the file cannot be written."""
    image = BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_atomically(path, lambda file: file.write(image.getvalue()))


def plot_curves(path: Path, runs: Mapping[str, Sequence[Sequence[Epoch]]]) -> None:
    """Draw error and loss over the epochs to a PNG: test solid, training dashed.

    Args:
        path: The file.
        runs: A network's name -> the epochs of its runs, one list per seed. With several, the line is their mean and
            the band reaches from their lowest to their highest.

    Raises:
        RunError: The file cannot be written.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = new_figure(10, 4.2)
    error_axes, loss_axes = figure.subplots(1, 2)
    drawings = (
        (error_axes, "error, %", ("test_top1_error", "train_error")),
        (loss_axes, "loss", ("test_loss", "train_loss")),
    )
    for axes, unit, quantities in drawings:
        drawn: list[float] = []
        for i, (name, histories) in enumerate(runs.items()):
            for quantity, style in zip(quantities, ("-", "--"), strict=True):
                label = f"{name}, {'test' if style == '-' else 'training'}"
                drawn += _plot_mean(axes, histories, quantity, style, COLOURS[i % len(COLOURS)], label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(unit)
        falls_far = max(drawn) > 20 * min(drawn)
        if falls_far and unit == "loss":
            axes.set_yscale("log")
            # Label 0.2, 0.5, 1, 2, 5 and no other part of a power of ten.
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
        else:
            # An error may reach zero, which has no logarithm.
            axes.set_yscale("symlog" if falls_far else "linear", **({"linthresh": 1} if falls_far else {}))
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    error_axes.legend(frameon=False)
    save_png(figure, path)


def _plot_mean(
    axes: Any, histories: Sequence[Sequence[Epoch]], quantity: str, style: str, colour: str, label: str
) -> list[float]:
    """Draw the mean of a quantity over runs, with a band where there are several; returns all its values."""
    length = min(map(len, histories))
    epochs = [epoch.epoch for epoch in histories[0][:length]]
    columns = [[getattr(history[i], quantity) for history in histories] for i in range(length)]
    axes.plot(
        epochs,
        [sum(column) / len(column) for column in columns],
        style,
        color=colour,
        label=label,
        linewidth=1.6,
        alpha=1 if style == "-" else 0.6,
        marker="o" if length == 1 else None,
    )
    if len(histories) > 1:
        lowest, highest = [min(column) for column in columns], [max(column) for column in columns]
        axes.fill_between(epochs, lowest, highest, color=colour, alpha=0.15, linewidth=0)
    return [value for column in columns for value in column]
