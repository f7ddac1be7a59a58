"""Learning curves, and ours beside the paper's, as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from senet.files import write_atomically

History = list[dict[str, float]]


def plot_curves(path: Path, runs: dict[str, list[History]]) -> None:
    """Draw error and loss over the epochs to a PNG: test solid, training dashed.

    runs: network's name -> the histories of its runs, one per seed. With several, the line is their mean and the band
    runs from their lowest to their highest.
    Raises RunError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    colours = ["#5b6c7d", "#d1495b", "#00798c", "#edae49", "#30638e", "#6a4c93", "#8ab17d", "#b56576"]
    for axes, quantity, unit in zip(
        figure.subplots(1, 2),
        (("test_top1_error", "train_error"), ("test_loss", "train_loss")),
        ("error, %", "loss"),
        strict=True,
    ):
        for i, (name, histories) in enumerate(runs.items()):
            colour = colours[i % len(colours)]
            length = min(map(len, histories))
            epochs = [row["epoch"] for row in histories[0][:length]]
            for key, style, label in zip(quantity, ("-", "--"), (f"{name}, test", f"{name}, training"), strict=True):
                columns = [[h[e][key] for h in histories] for e in range(length)]
                mean = [sum(c) / len(c) for c in columns]
                marker = "o" if length == 1 else None
                axes.plot(
                    epochs,
                    mean,
                    style,
                    color=colour,
                    label=label,
                    linewidth=1.6,
                    alpha=1 if style == "-" else 0.6,
                    marker=marker,
                )
                if len(histories) > 1:
                    axes.fill_between(
                        epochs, list(map(min, columns)), list(map(max, columns)), color=colour, alpha=0.15, linewidth=0
                    )
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(unit)
        drawn = [row[key] for histories in runs.values() for h in histories for row in h for key in quantity]
        falls_far = max(drawn) > 20 * min(drawn)
        if falls_far and unit == "loss":
            axes.set_yscale("log")
            # 0.2, 0.5, 1, 2, 5: the grid between the powers of ten needs no more words.
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "25" else ""))
        else:
            # An error may reach zero, which no logarithm does.
            axes.set_yscale("symlog" if falls_far else "linear", **({"linthresh": 1} if falls_far else {}))
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(alpha=0.25, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    image = BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_atomically(path, lambda file: file.write(image.getvalue()))


def plot_rows(path: Path, found: Mapping[str, Any]) -> None:
    """Draw a target's differences to a PNG: ours with interval and single seeds, the paper's beside them.

    found: of `senet.training.reproduction.result`.  Where nothing is compared, the rows' errors.
    Raises RunError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [d for d in found["differences"] if d["measure"] == "top1_error"]
    rows = {row["name"]: row["top1_error"] for row in found["rows"]}
    labels = [d["row"] for d in compared] or [name for name, m in rows.items() if m["mean"] is not None]
    figure = Figure(figsize=(7.5, 1.4 + 0.42 * max(1, len(labels))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ours, paper, grey = "#d1495b", "#30638e", "#8d99a6"
    for y, label in enumerate(labels):
        low: float | None
        high: float | None
        if compared:
            d = compared[y]
            pairs = zip(rows[label]["errors"], rows[d["minus"]]["errors"], strict=True)
            points = [a - b for a, b in pairs if a is not None and b is not None]
            mean, low, high, printed = d["mean"], d["low"], d["high"], d["printed"]
        else:
            points = [e for e in rows[label]["errors"] if e is not None]
            mean, low, high, printed = rows[label]["mean"], None, None, rows[label]["printed"]
        axes.plot(points, [y] * len(points), "|", color=ours, alpha=0.5, markersize=9)
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], "-", color=ours, linewidth=1.8)
        axes.plot([mean], [y], "o", color=ours, label="ours: mean, seeds, 95 % interval" if y == 0 else None)
        if printed is not None:
            axes.plot([printed], [y], "D", color=paper, markerfacecolor="white", label=None)
    if any((compared[y]["printed"] if compared else rows[n]["printed"]) is not None for y, n in enumerate(labels)):
        axes.plot([], [], "D", color=paper, markerfacecolor="white", linestyle="", label="the paper")
    if compared:
        axes.axvline(0, color=grey, linewidth=1)
    names = [f"{d['row']} minus {d['minus']}" for d in compared] or labels
    axes.set_yticks(range(len(labels)), names)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.set_xlabel("difference of top-1 error, points (left is better)" if compared else "top-1 error, %")
    axes.set_title(f"{found['target']}: {found['title']}", fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    if labels:
        figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    image = BytesIO()
    figure.savefig(image, format="png", dpi=130)
    write_atomically(path, lambda file: file.write(image.getvalue()))
