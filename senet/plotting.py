"""Figures drawn without a window. Names appear as they are: `$` starts no formula, and fonts are tried per letter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Droid Sans Fallback")
FONTS += ("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS", "Noto Emoji")
"""Fonts that are tried for each letter in turn, where they are installed; the first comes with matplotlib."""

COLOURS = ("#64727f", "#c84f14", "#0b69a8", "#0b8563", "#a97b00", "#9c4788", "#2f9dcb", "#7b5a36")
"""Of lines, in order; those of the report (`style.css`), which colour-blind readers can tell apart."""

INK, SOFT, FAINT, PAPER = "#1c1b19", "#68645d", "#bdb8ae", "#fcfbf9"
LOOK: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e2dfd8",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
"""How every figure looks."""


@contextmanager
def look(**values: Any) -> Iterator[None]:
    """Inside, new figures look as all of ours do; `values`: other values of matplotlib's settings, dots as `__`."""
    from matplotlib import rc_context

    with rc_context(LOOK | {name.replace("__", "."): value for name, value in values.items()}):  # type: ignore[arg-type]
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that is drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label(name: str) -> str:
    """A name as a figure shows it: letters that no installed font has, and unprintable ones, by their number.

    >>> label("5$_$10"), label("b\\udcff")
    ('5$_$10', 'b\\\\udcff')
    """
    fonts = _fonts()
    shown = "".join(
        c if c.isprintable() and any(font.get_char_index(ord(c)) for font in fonts) else ascii(c)[1:-1] for c in name
    )
    # Matplotlib leaves labels that begin with "_" out of a legend.
    return f" {shown}" if shown.startswith("_") else shown


def save(figure: Figure, path: Path, *, dpi: int = 130, metadata: dict[str, Any] | None = None) -> None:
    """Write a figure in the format of the path's ending; RunError where the file cannot be written."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
        text.set_fontfamily(_families())  # type: ignore[attr-defined]
    image = BytesIO()
    # For the labels of ticks, which are made when they are drawn.
    with rc_context({"text.parse_math": False}):
        figure.savefig(image, format=path.suffix.removeprefix("."), dpi=dpi, metadata=metadata)
    write_atomically(path, lambda file: file.write(image.getvalue()))


@cache
def _families() -> Sequence[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in FONTS if name in installed]


@cache
def _fonts() -> Sequence[Any]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return [get_font(findfont(FontProperties(family=[name]))) for name in _families()]
