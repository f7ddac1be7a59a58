"""Learning curves as a picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

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
    colours = ["#5b6c7d", "#d1495b", "#00798c", "#edae49", "#30638e", "#6a4c93"]
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
