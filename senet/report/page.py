"""What a report is made of, as plain values: `build` turns a `Page` into HTML.

Any key may be absent, and then its section is. Errors and shares of images are in percent, gates and shares of gates in
0 to 1; None and NaN are shown as a dash.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Cell = str | int | float | None
Metrics = dict[str, float]
"""A row of metrics.csv: epoch, lr, train_loss, train_error, test_loss, test_top1_error, test_top5_error, ..."""


class Result(TypedDict, total=False):
    """The one number that the page is about: `value` with its interval, and in words what it is and how it was got."""

    label: str
    value: float
    unit: str
    low: float | None
    high: float | None
    is_difference: bool
    note: str


class Network(TypedDict, total=False):
    """A network of a comparison: errors per seed (percent), their mean and deviation, and what it costs."""

    name: str
    errors: list[float]
    mean: float
    deviation: float | None
    params: int
    macs: int
    step_ms: float


class Table(TypedDict, total=False):
    """Ours beside the paper's. A cell is text, a number, or None.

    differs: what was otherwise than in the paper.  notes: what else a reader must know.
    """

    columns: list[str]
    rows: list[list[Cell]]
    differs: list[str]
    notes: list[str]


class Difference(TypedDict, total=False):
    """A paired difference of errors (percentage points) with its 95 % interval over n seeds.

    measure: what it is a difference of, "top-1"; each measure has a scale of its own.
    printed: the paper's own.  verdict: what the interval says of the paper's, in a word.
    """

    label: str
    measure: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    printed: float | None
    verdict: str


class Results(TypedDict, total=False):
    """One table of the paper, or one comparison: ours beside the paper's, and the paired differences."""

    title: str
    subtitle: str
    table: Table
    differences: list[Difference]


class Unit(TypedDict, total=False):
    """One unit's gates: means over all its channels, and lines over the S sampled ones.

    label: as the paper calls it, SE_2_3.  drawn: whether it is the last of its stage, which Figure 6 shows.
    gate, low, high, near_one: mean gate, and shares of gates below 0.05, above 0.95 and within 0.05 of 1.
    mean, deviation: (lines, S) in the order of `Gates.lines`; None for a class without images.
    openers, closers: (S, k) of `[image, gate]`, most extreme first.
    ablation: top-1 error (percent) with this unit's gates "off", "mean" or "shuffled".
    """

    name: str
    label: str
    stage: str
    kind: str
    channels: int
    drawn: bool
    gate: float
    low: float
    high: float
    near_one: float
    specificity: float
    entropy: float
    ablation: dict[str, float]
    sampled: list[int]
    mean: list[list[float | None]]
    deviation: list[list[float | None]]
    openers: list[list[list[float]]]
    closers: list[list[list[float]]]


class Line(TypedDict):
    """What a curve of gates is the mean of: "all" images, or those of one class, and how many they are."""

    name: str
    images: int


class Gates(TypedDict, total=False):
    """What the gates of a network do, as `senet.analysis.statistics.Gates.page` writes it.

    lines: "all", then the chosen classes.  units: in forward order.
    similarity: (U, U), 0 to 1; None with a unit whose gates are the same for all classes.
    ablation: top-1 error with the gates of all units replaced at once.
    thumbnails: number of an image, as text -> data URI.
    """

    model: str
    source: str
    images: int
    top1_error: float | None
    ablation: dict[str, float]
    lines: list[Line]
    units: list[Unit]
    similarity: list[list[float | None]]
    thumbnails: dict[str, str]


class Confusion(TypedDict):
    """Counts of images; rows are the truth, columns the answer."""

    classes: list[str]
    matrix: list[list[int]]


ClassError = TypedDict("ClassError", {"class": str, "images": int, "top1_error": float, "top5_error": float})


class Bin(TypedDict):
    """The answers whose confidence is from `low` to `high`: how many, mean confidence, share that is right (0 to 1)."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


class Calibration(TypedDict, total=False):
    """Expected and maximum calibration error, Brier score, negative log likelihood (nats), and the diagram's bins."""

    ece: float
    mce: float
    brier: float
    nll: float
    bins: list[Bin]


class Stage(TypedDict, total=False):
    """Parameters and multiply-adds of one part of a network, and what of them is its attention units'."""

    name: str
    layers: str
    output: str
    params: int
    macs: int
    se_params: int
    se_macs: int


class Complexity(TypedDict, total=False):
    """A network's cost by stage; `total` holds params, macs, se_params and se_macs."""

    model: str
    image_size: list[int]
    total: dict[str, int]
    stages: list[Stage]


class Provenance(TypedDict, total=False):
    """What it takes to get the same again: commands, recipe, seeds, environment."""

    commands: list[str]
    recipe: dict[str, Any]
    seeds: list[int]
    environment: dict[str, Any]


class Page(TypedDict, total=False):
    """A report."""

    title: str
    kind: Literal["run", "comparison", "reproduction", "analysis"]
    subtitle: str
    result: Result
    networks: list[Network]
    overview: list[tuple[str, Cell]]
    curves: dict[str, list[list[Metrics]]]
    results: list[Results]
    gates: Gates
    confusion: Confusion
    per_class: list[ClassError]
    calibration: Calibration
    complexity: Complexity
    provenance: Provenance
