"""The contents of a report. `senet.report.render.render` turns a `Page` into HTML; an empty field has no section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from senet.experiments.result import Result
from senet.runs.detection import DetectionEvaluation
from senet.runs.environment import Environment
from senet.runs.evaluation import Evaluation
from senet.runs.gates import GatesOnPage
from senet.runs.metrics import Epoch

if TYPE_CHECKING:
    from senet.models.describe import Description
    from senet.recipes.recipe import Recipe

Cell = str | int | float | None
"""Text as it is, or a number to format; None and NaN are shown as a dash."""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The one number at the top of the page.

    Attributes:
        label: What it is.
        value: The number itself.
        unit: "%", or "points of error" for a difference.
        low: Lower end of the 95 % confidence interval; None without one.
        high: Upper end.
        is_difference: Whether to print a sign and to draw the interval beside zero.
        note: A sentence about the interval.
        is_sure: Whether the interval excludes that there is nothing; otherwise the number is printed small.
    """

    label: str
    value: float
    unit: str = "%"
    low: float | None = None
    high: float | None = None
    is_difference: bool = False
    note: str = ""
    is_sure: bool = True


@dataclass(frozen=True, kw_only=True)
class Page:
    """A report.

    Attributes:
        kind: "Run", "Comparison", "Reproduction" or "Gates", printed above the title.
        title: Heading of the page.
        sentence: The result as one would say it.
        subtitle: What it was measured on.
        headline: The result in one number.
        best: The same of the best epoch, beside it.
        links: Name of a network -> pairs of a seed and the page of its run.
        facts: Labels and values of the overview.
        notes: What to know before believing the headline, a line each.
        results: Results of experiments.
        curves: Name of a network -> the epochs of each of its runs.
        gates: Gates of a network over a data set.
        evaluation: Errors by class, confusions and calibration.
        detection: What a detector finds: examples, curves and AP by class.
        cost: Parameters and multiply-adds of the network of `recipe`.
        recipe: How the network was trained; of an experiment, its last network.
        seeds: Seeds of all runs.
        commands: Command lines that produce the same again.
        environment: Versions and hardware.
    """

    kind: str
    title: str
    sentence: str = ""
    subtitle: str = ""
    headline: Headline | None = None
    best: Headline | None = None
    links: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)
    facts: Sequence[tuple[str, Cell]] = ()
    notes: Sequence[str] = ()
    results: Sequence[Result] = ()
    curves: Mapping[str, Sequence[Sequence[Epoch]]] = field(default_factory=dict)
    gates: GatesOnPage | None = None
    evaluation: Evaluation | None = None
    detection: DetectionEvaluation | None = None
    cost: Description | None = None
    recipe: Recipe | None = None
    seeds: Sequence[int] = ()
    commands: Sequence[str] = ()
    environment: Environment | None = None
