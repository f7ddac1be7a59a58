"""Draw the parts of the page as HTML: the answer, all units, one unit's gates.

Colours are CSS variables of the page, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape as _escape

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from senet.analysis.pictures import data_uri
from senet.analysis.switchboard import Averages, Result
from senet.report.words import number

TOP = 5
"""Number of classes and channels in a table."""

HEAT = (0.98, 0.45, 0.09)
"""Colour of the places that an answer comes from, red, green and blue."""

MAP_SIDE = 320
"""Largest width and height of the picture of these places, in pixels."""

LOW, HIGH = 0.05, 0.95
"""A gate below LOW is closed, above HIGH open."""


@dataclass(frozen=True, eq=False)
class View:
    """The results for one image.

    Attributes:
        before: With all units on.
        after: With the units of `off` switched off.
        off: Their names.
    """

    before: Result
    after: Result
    off: tuple[str, ...] = ()

    @property
    def predicted(self) -> int:
        """Index of the most likely class with all units on."""
        return int(self.before.logits.argmax())


def escape(text: str) -> str:
    """Escape a text for HTML and gradio's templates, which read braces."""
    return _escape(text).replace("{", "&#123;")


def failed(why: str) -> str:
    """Draw the message for an image that cannot be read."""
    return f'<p class="se-failed" role="alert">{escape(why)}</p>'


def short(names: Sequence[str]) -> dict[str, str]:
    """Shorten the names of units: drop the parts at either end that all share.

    >>> short(["layer1.0.se", "layer2.3.se"])
    {'layer1.0.se': 'layer1.0', 'layer2.3.se': 'layer2.3'}
    >>> short(["features.1.0.block.1", "features.2.0.block.2"])
    {'features.1.0.block.1': '1.0.block.1', 'features.2.0.block.2': '2.0.block.2'}
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts)) - 1
    first = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest)
    last = next((i for i in range(shortest - first) if len({p[-1 - i] for p in parts}) > 1), shortest - first)
    return {name: ".".join(p[first : len(p) - last]) for name, p in zip(names, parts, strict=True)}


def nothing() -> str:
    """Draw the placeholder without an image."""
    return '<p class="se-quiet">The prediction appears here when there is an image.</p>'


def verdict(view: View, classes: Sequence[str]) -> str:
    """Draw the most likely class, before and after switching units off, in one line."""
    before, after = view.before.probabilities.numpy(), view.after.probabilities.numpy()
    first, now = int(before.argmax()), int(after.argmax())
    line = f"<b>{escape(classes[first])}</b> {_percent(before[first])}"
    if view.off:
        name = "" if first == now else f"<b>{escape(classes[now])}</b> "
        line += f' <span class="se-then" role="img" aria-label="becomes">→</span> {name}{_percent(after[now])}'
    return f'<p class="se-head">{line}</p>'


def answer(view: View, classes: Sequence[str]) -> str:
    """Draw the most likely classes with their probabilities, before and after switching units off."""
    before, after = view.before.probabilities.numpy(), view.after.probabilities.numpy()
    units = f"{len(view.off)} of {len(view.after.gates)} units off"
    lead = f"With all units on, and with {units}." if view.off else "With all units on."
    columns = ["all on", f"{len(view.off)} off", "points"] if view.off else ["probability"]
    best = _top(before) + (_top(after) if view.off else [])
    rows = []
    for k in sorted(set(best), key=best.index):
        cells = [_bar(before[k], "on")]
        if view.off:
            cells += [
                _bar(after[k], "off"),
                f'<td class="se-number">{_signed(100 * (after[k] - before[k]), 1)}</td>',
            ]
        rows.append(f'<tr><th scope="row">{escape(classes[k])}</th>{"".join(cells)}</tr>')
    titles = "".join(f'<th scope="col">{title}</th>' for title in ("class", *columns))
    return (
        f'<div class="se-answer">{verdict(view, classes)}<p class="se-quiet">{lead}</p>'
        f'<table class="se-table"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def places(view: View, image: Tensor, classes: Sequence[str]) -> str:
    """Draw where the answer comes from, over the image in grey, before and after switching units off.

    Args:
        view: The results.
        image: (1, C, H, W), as the network gets it.
        classes: Names of the outputs.
    """
    shown = [("all units on", view.before), *([(f"{len(view.off)} off", view.after)] if view.off else [])]
    maps = [(words, result, result.places.clamp(min=0)) for words, result in shown if result.places is not None]
    most = max((float(heat.max()) for _, _, heat in maps), default=0.0)
    if not most:
        return ""
    grey = image[0].mean(0)
    grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-6)
    figures = []
    for words, result, heat in maps:
        large = interpolate(heat[None, None] / most, image.shape[2:], mode="bilinear")[0, 0, :, :, None]
        pixels = torch.lerp(0.8 * grey[:, :, None].expand(-1, -1, 3), torch.tensor(HEAT), 0.6 * large)
        picture = data_uri(Image.fromarray((255 * pixels).byte().numpy()), MAP_SIDE)
        name = escape(classes[int(result.logits.argmax())])
        figures.append(
            f'<figure class="se-place"><img src="{picture}" alt="The image in grey; the regions that raise the score '
            f'of {name} are orange"><figcaption><b>{name}</b>, {words}</figcaption></figure>'
        )
    what = '<p class="se-quiet">Class activation map: the places that the answer comes from.</p>'
    return f'{what}<div class="se-places">{"".join(figures)}</div>'


def depth(view: View, chosen: str, labels: Mapping[str, str], averages: Averages | None) -> str:
    """Draw all units in order: mean and range of this image's gates, and the mean over all images."""
    low, high = _range(*(s.numpy() for s in view.after.gates.values()))
    bars = []
    for place, (name, s) in enumerate(view.after.gates.items(), 1):
        gate = s.numpy()
        p10, p90, mean = (float(v) for v in (*np.quantile(gate, (0.1, 0.9)), gate.mean()))
        bottom, top, middle = (_place(v, low, high) for v in (p10, p90, mean))
        marks = f'<i class="se-spread" style="bottom:{bottom:.1f}%;height:{max(top - bottom, 0.5):.1f}%"></i>'
        if averages is not None:
            average = _place(float(averages.overall[name].mean()), low, high)
            marks += f'<i class="se-average" style="bottom:{average:.1f}%"></i>'
        marks += f'<i class="se-mean" style="bottom:{middle:.1f}%"></i>'
        style = " ".join(["se-unit", *["se-chosen"] * (name == chosen), *["se-off"] * (name in view.off)])
        off = ", off" if name in view.off else ""
        title = escape(f"{labels[name]}{off}: mean gate {mean:.2f}, from {p10:.2f} to {p90:.2f} for 8 of 10 channels")
        words = f'<span class="se-words">{title}</span>'
        bars.append(f'<li class="{style}" data-number="{place}" title="{title}">{marks}{words}</li>')
    legend = [("se-key-mean", "mean over channels"), ("se-key-spread", "8 of 10 channels")]
    legend += [("se-key-average", "mean of all images")] * (averages is not None)
    legend += [("se-key-off", "off")] * bool(view.off)
    return (
        f'<figure class="se-figure"><div class="se-axes">{_ticks(low, high)}'
        f'<ol class="se-depth" aria-label="Gates of each unit, first to last">{"".join(bars)}</ol></div>'
        f'<div class="se-below"><span>first unit</span><span>last unit</span></div>{_legend(legend)}</figure>'
    )


def gates(view: View, chosen: str, classes: Sequence[str], labels: Mapping[str, str], averages: Averages | None) -> str:
    """Draw one unit: each channel's gate with the averages, a summary, and the most unusual channels."""
    gate, k = view.after.gates[chosen].numpy(), view.predicted
    as_before = view.before.gates[chosen].numpy()
    overall = averages.overall[chosen] if averages else None
    of_class = averages.of_class[chosen][k] if averages else None
    if of_class is not None and not np.isfinite(of_class).all():
        of_class = None
    order = np.argsort(gate if overall is None else overall, kind="stable")[::-1]
    low, high = _range(gate, as_before, *(a for a in (overall, of_class) if a is not None))
    parts = []
    if overall is not None:
        parts.append(f'<path class="se-line-all" d="{_line(overall[order], low, high)}"/>')
    if of_class is not None:
        parts.append(f'<path class="se-line-class" d="{_line(of_class[order], low, high)}"/>')
    size = "se-many" if len(gate) > 400 else "se-some" if len(gate) > 100 else "se-few"
    # Units that are off change the input of later units.
    moved = not np.array_equal(gate, as_before)
    if moved:
        parts.append(f'<path class="se-dots se-dots-before {size}" d="{_dots(as_before[order], low, high)}"/>')
    parts.append(f'<path class="se-dots {size}" d="{_dots(gate[order], low, high)}"/>')
    legend = [("se-key-dot", "this image")] + [("se-key-before", "this image, all units on")] * moved
    legend += [("se-key-class", f"average of {classes[k]}")] * (of_class is not None)
    legend += [("se-key-all", "average of all images")] * (overall is not None)
    sorting = "its own gate, largest first" if overall is None else "average gate over all images, largest first"
    words = _words(gate, chosen in view.off, labels[chosen])
    return (
        f'<figure class="se-figure"><figcaption>{words}</figcaption>'
        f'<div class="se-axes">{_ticks(low, high)}'
        f'<svg class="se-plot" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(f"Gates of {len(gate)} channels of {labels[chosen]}")}">{"".join(parts)}</svg></div>'
        f'<div class="se-below"><span>{len(gate)} channels, by {sorting}</span></div>{_legend(legend)}</figure>'
        + _extremes(gate, of_class, overall, classes[k])
    )


def _words(gate: np.ndarray, is_off: bool, label: str) -> str:
    closed, opened = (100 * float(part.mean()) for part in (gate < LOW, gate > HIGH))
    words = f"<b>{escape(label)}</b>: {len(gate)} channels, mean gate {gate.mean():.2f}, spread {gate.std():.2f}; "
    words += f"{closed:.0f} % closed (below {LOW}), {opened:.0f} % open (above {HIGH})."
    return words + (" <b>Off</b>: its gates, drawn here, are not applied." if is_off else "")


def _extremes(gate: np.ndarray, of_class: np.ndarray | None, overall: np.ndarray | None, name: str) -> str:
    """Draw tables of the channels farthest above and below the average, or with the largest and smallest gates."""
    base = of_class if of_class is not None else overall
    difference = gate if base is None else gate - base
    order = np.argsort(difference, kind="stable")
    count = min(TOP, len(gate) // 2)
    groups = [("More open", order[::-1][:count]), ("More closed", order[:count])]
    if base is None:
        groups = [(title.replace("More", "Most"), found) for title, found in groups]
    than = f" than the average of {name}" if of_class is not None else " than on average" if base is not None else ""
    columns = ["channel", "gate"] + ["average", "difference"] * (base is not None)
    titles = "".join(f'<th scope="col">{title}</th>' for title in columns)
    tables = []
    for title, found in groups:
        rows = []
        for c in found.tolist():
            values = [gate[c]] if base is None else [gate[c], base[c]]
            cells = "".join(f'<td class="se-number">{v:.3f}</td>' for v in values)
            cells += "" if base is None else f'<td class="se-number">{_signed(float(difference[c]), 3)}</td>'
            rows.append(f'<tr><th scope="row">{c}</th>{cells}</tr>')
        tables.append(
            f'<table class="se-table"><caption>{title}{escape(than)}</caption>'
            f"<thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )
    return f'<div class="se-pair">{"".join(tables)}</div>'


def _top(p: np.ndarray) -> list[int]:
    return np.argsort(-p, kind="stable")[:TOP].tolist()


def _percent(p: float) -> str:
    return f"{100 * p:.1f}&nbsp;%"


def _signed(value: float, digits: int) -> str:
    return number(float(value), digits, signed=True)


def _bar(p: float, side: str) -> str:
    bar = f'<i class="se-bar se-bar-{side}" style="width:{100 * p:.1f}%"></i>' if p >= 0.0005 else ""
    return f'<td class="se-p"><span class="se-number">{_percent(p)}</span>{bar}</td>'


def _range(*values: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis: 0 and 1, or wider for gates beyond."""
    found = [float(v) for a in values for v in (np.nanmin(a), np.nanmax(a))]
    return min(0.0, math.floor(2 * min(found)) / 2), max(1.0, math.ceil(2 * max(found)) / 2)


def _place(value: float, low: float, high: float) -> float:
    """Return the height above the bottom in percent."""
    return 100 * (value - low) / (high - low)


def _ticks(low: float, high: float) -> str:
    marks = (
        f'<span style="bottom:{_place(v, low, high):.1f}%">{v:g}</span>' for v in np.linspace(low, high, 3).tolist()
    )
    return f'<div class="se-ticks" aria-hidden="true">{"".join(marks)}</div>'


def _line(values: np.ndarray, low: float, high: float) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.2f}" for x, y in _points(values, low, high))


def _dots(values: np.ndarray, low: float, high: float) -> str:
    """Return a path with a stroke of zero length per value, whose round cap is a dot at any width of the page."""
    return "".join(f"M{x:.1f} {y:.2f}h0" for x, y in _points(values, low, high))


def _points(values: np.ndarray, low: float, high: float) -> list[tuple[float, float]]:
    n = len(values)
    return [((i + 0.5) * 1000 / n, 100 - _place(float(v), low, high)) for i, v in enumerate(values)]


def _legend(keys: Collection[tuple[str, str]]) -> str:
    items = "".join(f'<li><i class="{style}"></i>{escape(words)}</li>' for style, words in keys)
    return f'<ul class="se-legend">{items}</ul>'
