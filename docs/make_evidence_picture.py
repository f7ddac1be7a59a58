"""Draw every paired difference of docs/evidence with its interval, those that exclude zero first; in light and dark.

python docs/make_evidence_picture.py
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from senet.experiments.result import paired_difference

DOCS = Path(__file__).parent
COLOURS = {
    "light": ("#1f2328", "#6e7781", "#0072b2", "#d55e00"),
    "dark": ("#f0f3f6", "#9da7b3", "#56b4e9", "#e69f00"),
}
"""Text, open differences, those that exclude zero, the paper's."""

SAME = {("table13", "SE_All"), ("table16", "SE")}
"""The runs of Table 10's r = 16 once more."""

PLAIN = {"original": "no SE", "ResNet-50": "no SE"}


class Interval(NamedTuple):
    """A difference of two rows in points of top-1 error."""

    label: str
    low: float
    mean: float
    high: float
    printed: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def intervals() -> list[Interval]:
    """Of all results, those that exclude zero first."""
    found = [_of_identity_shortcuts()]
    for file in sorted((DOCS / "evidence").glob("*.json")):
        result = json.loads(file.read_text())
        for d in result.get("differences", ()):
            name = result.get("target") or result["name"]
            if d["measure"] != "top1_error" or (name, d["row"]) in SAME or name == "fine-tuning":
                continue
            what = name.replace("table", "Table ").replace("student", "CIFAR-10").replace("comparison", "trained")
            label = f"{d['row']} against {PLAIN.get(d['minus'], d['minus'])} · {what}".replace("timm:", "")
            found.append(Interval(label, d["low"], d["mean"], d["high"], d["printed"]))
    return sorted(found, key=lambda i: (not i.excludes_zero, -abs(i.mean)))


def _of_identity_shortcuts() -> Interval:
    """The comparison of `resnet20` with `se_resnet20`, from the last epochs of its runs."""
    with open(DOCS / "evidence" / "identity-runs.csv") as file:
        last = {row["run"]: float(row["test_top1_error"]) for row in csv.DictReader(file)}
    plain, se = ([error for run, error in sorted(last.items()) if run.startswith(name)] for name in ("resnet20", "se_"))
    difference = paired_difference("se_resnet20", "resnet20", se, plain, [1.0] * len(se))
    assert difference.low is not None
    assert difference.high is not None
    return Interval("se_resnet20 against resnet20 · CIFAR-10", difference.low, difference.mean, difference.high, None)


def draw(rows: list[Interval], theme: str) -> Figure:
    """One line for each difference, from the top."""
    ink, quiet, clear, printed = COLOURS[theme]
    figure, axes = plt.subplots(figsize=(7.6, 0.36 * len(rows) + 1.0), facecolor="none", layout="constrained")
    axes.axvline(0, color=quiet, linewidth=1)
    for y, row in enumerate(rows):
        colour = clear if row.excludes_zero else quiet
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=3 if row.excludes_zero else 1.5, zorder=2)
        axes.plot(row.mean, y, "o", color=colour, markersize=8 if row.excludes_zero else 5, zorder=3)
        if row.printed is not None:
            axes.plot(
                row.printed, y, "D", color=printed, markersize=6, markerfacecolor="none", markeredgewidth=1.6, zorder=4
            )
        axes.annotate(
            row.label, (0, y), (-8, 0), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right",
            va="center", color=ink if row.excludes_zero else quiet, fontsize=11.5,
        )  # fmt: skip
    axes.set(ylim=(len(rows) - 0.4, -0.8), yticks=[], facecolor="none")
    axes.set_xlabel("points of error; ◇ the paper's", color=ink, fontsize=11.5)
    axes.tick_params(colors=quiet, labelsize=11)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(-0.15, -0.75, "fewer errors ←", ha="right", color=quiet, fontsize=11)
    axes.text(0.15, -0.75, "→ more errors", ha="left", color=quiet, fontsize=11)
    return figure


if __name__ == "__main__":
    plt.rcParams["font.family"] = "DejaVu Sans"
    for theme in COLOURS:
        draw(intervals(), theme).savefig(DOCS / "_static" / f"evidence-{theme}.png", dpi=130, transparent=True)
