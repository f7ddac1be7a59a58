"""Figures of a network's gates as PNG and SVG: Figures 6 and 7 of the paper, and more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from senet.analysis.statistics import Gates, UnitGates
from senet.errors import ConfigError
from senet.plotting import COLOURS as PALETTE
from senet.plotting import FAINT, INK, label, look, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = PALETTE[1:]
"""Of classes; the first of the palette is grey."""


def draw_all(folder: Path, gates: Gates, pixels: Callable[[int], np.ndarray] | None = None) -> list[Path]:
    """Draw all figures into a folder, each as PNG and SVG; delete those of an earlier analysis that do not apply.

    Args:
        folder: Where the files go.
        gates: What to draw.
        pixels: Index of an image -> (H, W, 1 or 3) uint8, for the strips of images; None for no strips.

    Returns:
        The PNG files.

    Raises:
        RunError: If a file cannot be written.
    """
    drawings: dict[str, Callable[[], Figure]] = {"figure6": lambda: figure6(gates)}
    if len(gates.chosen) > 1:
        drawings["figure7"] = lambda: figure7(gates)
    drawings["depth"] = lambda: depth(gates)
    if len(gates.units) > 1 and np.count_nonzero(gates.per_class) > 2:
        drawings["similarity"] = lambda: similarity(gates)
    if gates.ablation:
        drawings["ablation"] = lambda: ablation(gates)
    if pixels is not None:
        for u in gates.drawn:
            drawings[f"images_{u.label.replace('.', '_')}"] = lambda u=u: strips(u, pixels)
    for name in {"figure7", "similarity", "ablation"} - drawings.keys():
        for suffix in ("png", "svg"):
            (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    return [write(folder / name, draw()) for name, draw in drawings.items()]


def write(path: Path, figure: Figure) -> Path:
    """Write a figure as `path`.svg and `path`.png (200 dpi) and return the latter; RunError if that fails."""
    with _look():
        save(figure, path.with_name(f"{path.name}.svg"), metadata={"Date": None})
        figure.set_layout_engine("none")  # It keeps its layout, which need not be computed twice.
        save(figure, path.with_name(f"{path.name}.png"), dpi=200)
    return path.with_name(f"{path.name}.png")


def figure6(gates: Gates, units: Sequence[UnitGates] = ()) -> Figure:
    """Draw Figure 6: the mean gate of the sampled channels for each chosen class and for all images, a panel per unit.

    Args:
        gates: What to draw.
        units: The units to draw; () for `gates.drawn`.
    """
    drawn = tuple(units) or gates.drawn
    with _look():
        figure, panels = _panels(len(drawn), height=1.75)
        for axes, u in zip(panels, drawn, strict=True):
            x = np.arange(len(u.sampled))
            for k, colour in zip(gates.chosen, COLOURS * len(gates.chosen), strict=False):
                axes.plot(x, u.mean[k][u.sampled], color=colour, label=_title(gates.classes[k]))
            # Drawn last, so that it is visible where the classes agree.
            axes.plot(x, u.overall_mean[u.sampled], color=INK, label="all", linewidth=1, linestyle=(0, (3, 1.5)))
            _gate_axes(axes, u)
        _finish(figure, panels, "mean gate")
    return figure


def figure7(gates: Gates, classes: tuple[int, int] | None = None, units: Sequence[UnitGates] = ()) -> Figure:
    """Draw Figure 7: mean gate plus and minus one standard deviation over the images of a class, for two classes.

    Args:
        gates: What to draw.
        classes: Their indices; None for the first two chosen.
        units: As for `figure6`.

    Raises:
        ConfigError: If there are not two classes.
    """
    drawn = tuple(units) or gates.drawn
    pair = classes or gates.chosen[:2]
    if len(pair) < 2:
        raise ConfigError("classes: figure 7 compares two classes; expected: two indices")
    with _look():
        figure, panels = _panels(len(drawn), height=1.75)
        for axes, u in zip(panels, drawn, strict=True):
            x = np.arange(len(u.sampled))
            for k, colour in zip(pair, COLOURS, strict=False):
                mean, spread = u.mean[k][u.sampled], u.deviation[k][u.sampled]
                # Clip to the range of the gates: with mean 0.99 and deviation 0.05 no gate is 1.04.
                band = np.clip((mean - spread, mean + spread), u.lowest, u.highest)
                axes.fill_between(x, *band, color=colour, alpha=0.2, linewidth=0)
                axes.plot(x, mean, color=colour, label=_title(gates.classes[k]))
            _gate_axes(axes, u)
        _finish(figure, panels, "gate, mean ± deviation")
    return figure


def depth(gates: Gates) -> Figure:
    """Draw by depth: class specificity, entropy, and the shares of gates near 0 and 1."""
    units = gates.units
    with _look():
        figure, panels = _panels(3, columns=1, height=1.35, width=min(7.2, max(4.8, 2.6 + 0.3 * len(units))))
        x = np.arange(len(units))
        lines = (
            ("Class specificity: variance between classes over all variance", [("", [u.specificity for u in units])]),
            ("Entropy of a channel's gates, bits", [("", [u.entropy for u in units])]),
            (
                "Share of gates",
                [
                    ("below 0.05", [u.low.mean() for u in units]),
                    ("above 0.95", [u.high.mean() for u in units]),
                    ("within 0.05 of 1", [u.near_one.mean() for u in units]),
                ],
            ),
        )
        for axes, (title, curves) in zip(panels, lines, strict=True):
            for (name, values), colour, style in zip(curves, COLOURS, ("o-", "s-", "D:"), strict=False):
                # Hollow, since the gates near one are often exactly those above 0.95.
                look: dict[str, Any] = {"markersize": 6, "fillstyle": "none"} if style == "s-" else {"markersize": 3.5}
                axes.plot(x, values, style, color=colour, label=name, clip_on=False, **look)
            axes.set_title(title)
            axes.set_ylim(0, max(1e-3, 1.05 * max(max(values) for _, values in curves)))
            axes.set_xlim(-0.5, len(units) - 0.5)
            axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
            for i in _borders(units):
                axes.axvline(i - 0.5, color=FAINT, linewidth=0.8)
            axes.set_xticks(x, [] if axes is not panels[-1] else [u.label for u in units], rotation=90)
        panels[-1].legend(loc="upper left", bbox_to_anchor=(0, 1.02), ncols=3, handlelength=1.5)
        low, high = panels[-1].get_ylim()
        panels[-1].set_ylim(low, high * 1.25)
    return figure


def similarity(gates: Gates) -> Figure:
    """Draw how similarly two units distinguish the classes: linear CKA of their class means (arXiv:1905.00414)."""
    names = [u.label for u in gates.units]
    side = min(7.2, 2.2 + 0.2 * len(names))
    with _look():
        figure = new_figure(side + 0.6, side)
        axes = figure.subplots()
        image = axes.imshow(gates.similarity, vmin=0, vmax=1, interpolation="nearest")
        if np.isnan(gates.similarity).any():
            # NaN cells are transparent.
            axes.patch.set(hatch="////", edgecolor=FAINT)
            axes.set_xlabel("hatched: gates are equal for all classes")
        size = 8 if len(names) <= 24 else 8 * 24 / len(names)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for i in _borders(gates.units):
            axes.axhline(i - 0.5, color="white", linewidth=0.8)
            axes.axvline(i - 0.5, color="white", linewidth=0.8)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, label="linear CKA of class means")
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def ablation(gates: Gates) -> Figure:
    """Draw the top-1 errors with the gates of one unit replaced and of all units, and the network's own."""
    names = [u.label for u in gates.units] + ["all units"]
    errors = [u.ablation for u in gates.units] + [gates.ablation]
    y = np.arange(len(names))[::-1]
    with _look():
        figure = new_figure(5.4, 1.2 + 0.19 * len(names))
        axes = figure.subplots()
        own = gates.top1_error
        if own is not None:
            axes.axvline(own, color=INK, linewidth=0.8)
        axes.hlines(y, 0, 1, color=FAINT, linewidth=0.5, transform=axes.get_yaxis_transform(), zorder=0)
        words = {"mean": "their mean", "other": "another image's", "one": "one"}
        for (how, word), colour, marker in zip(words.items(), COLOURS, "osD", strict=False):
            x = [e[how] for e in errors]
            axes.scatter(x, y, s=18, color=colour, marker=marker, label=word, linewidth=0, alpha=0.9)
        axes.set_yticks(y, names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlabel(
            "top-1 error, %, with the gates replaced"
            + (f" (line: not replaced, {own:.2f} %)" if own is not None else "")
        )
        figure.legend(loc="outside upper left", ncols=3, handletextpad=0.2)
    return figure


def strips(u: UnitGates, pixels: Callable[[int], np.ndarray], *, channels: int = 5, images: int = 6) -> Figure:
    """Draw the images with the smallest and largest gates, for the sampled channels that vary most.

    Args:
        u: The unit.
        pixels: Index of an image -> (H, W, 1 or 3) uint8.
        channels: Number of channels.
        images: Number of images at either end.
    """
    rows = np.sort(np.argsort(-u.overall_deviation[u.sampled], kind="stable")[:channels])
    images = min(images, u.openers.shape[1])
    # In inches, in one pair of axes: a pair for each image would take matplotlib ten times as long to lay out.
    margin, name, gap, value, head = 0.1, 0.65, 0.12, 0.16, 0.5
    cell = (7.2 - 2 * margin - name - gap) / (2 * images)
    ends = (("closed by", u.closers, u.closer_values), ("opened by", u.openers, u.opener_values))
    starts = (margin + name, margin + name + images * cell + gap)
    with _look():
        height = head + len(rows) * (cell + value) + margin
        figure = new_figure(7.2, height)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 7.2), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(margin, 0.16, f"{u.label}: the channels that vary most", va="center", fontsize=9)
        axes.text(margin, 0.38, "channel", va="center", fontweight="bold")
        for start, (word, numbers, values) in zip(starts, ends, strict=True):
            axes.text(start, 0.38, word, va="center", fontweight="bold")
            for row, r in enumerate(rows):
                top = head + row * (cell + value) + value
                axes.text(margin, top + cell / 2, f"{u.sampled[r]}", va="center")
                for column, (i, number) in enumerate(zip(numbers[r, :images], values[r], strict=False)):
                    if i >= 0:
                        middle = start + (column + 0.5) * cell
                        _picture(axes, pixels(int(i)), middle, top + cell / 2, 0.94 * cell)
                        axes.text(middle, top - 0.01, f"{number:.3f}", ha="center", va="bottom", fontsize=6)
    return figure


def _picture(axes: Axes, picture: np.ndarray, x: float, y: float, side: float) -> None:
    """Draw an image (H, W, 1 or 3) about a centre, its longer side of the given length."""
    h, w = picture.shape[:2]
    across, down = side / 2 * w / max(h, w), side / 2 * h / max(h, w)
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (x - across, x + across, y + down, y - down)
    axes.imshow(np.broadcast_to(picture, (h, w, 3)), extent=extent, aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])


def _look() -> AbstractContextManager[None]:
    # Equal gates give equal files.
    return look(font__size=8, axes__titlesize=9, lines__linewidth=1.2, image__cmap="cividis", svg__hashsalt="senet")


def _panels(count: int, *, columns: int = 3, height: float, width: float = 7.2) -> tuple[Figure, list[Axes]]:
    """Create a figure of `count` panels; `height` of a panel and `width` of the figure in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width, height * rows + 0.45)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    return figure, panels[:count]


def _gate_axes(axes: Axes, u: UnitGates) -> None:
    axes.set_title(u.label)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    last = len(u.sampled) - 1
    axes.set_xlim(0, max(last, 1))
    places = sorted({round(part * last / 4) for part in range(5)})
    axes.set_xticks(places, [str(u.sampled[i]) for i in places])
    # Most gates are sigmoids: all panels have the scale 0 to 1 unless the gates exceed it.
    low, high = axes.get_ylim()
    axes.set_ylim(low if u.lowest.min() < 0 else 0, high if u.highest.max() > 1 else 1)
    axes.set_xlabel(f"channel, {len(u.sampled)} of {u.channels}")


def _finish(figure: Figure, panels: Sequence[Axes], y: str) -> None:
    grid = panels[0].get_subplotspec()
    columns = 1 if grid is None else grid.get_gridspec().ncols
    for axes in panels[::columns]:
        axes.set_ylabel(y)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 6), handlelength=1.6)


def _borders(units: Sequence[UnitGates]) -> list[int]:
    """List the indices of the units that begin a stage, except the first."""
    return [i for i in range(1, len(units)) if units[i].stage != units[i - 1].stage]


def _title(name: str) -> str:
    return label(name if len(name) <= 24 else f"{name[:23]}…")
