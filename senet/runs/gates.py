"""gates.json: a network's gates over a data set, as much of them as a page shows.

Shapes: U units, L lines, S sampled channels of a unit, k images at either end of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from senet.runs.evaluation import COUNTED
from senet.runs.folder import GATES, json_file

Ends = tuple[tuple[tuple[int, float | None], ...], ...]
"""(S, k) pairs of an image's number and its gate, most extreme first."""

Lines = tuple[tuple[float | None, ...], ...]
"""(L, S); None for a class without images."""


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """What a curve of gates is the mean of: "all" images, or those of one class, and how many they are."""

    name: str
    images: int


@dataclass(frozen=True, kw_only=True)
class UnitOnPage:
    """One unit's gates: means over all its channels, and lines over the sampled ones.

    Attributes:
        name: Of the unit's module.
        label: As the paper calls it, SE_2_3.
        stage: Part of the name that says which stage, or "".
        kind: Of the unit.
        channels: How many it has.
        drawn: Whether Figure 6 shows it.
        gate: Mean gate, 0 to 1.
        low: Share of the gates below 0.05.
        high: Share above 0.95.
        near_one: Share within 0.05 of 1.
        specificity: Part of the variance that is between classes; None where there is no variance.
        entropy: Bits of a channel's histogram over images.
        ablation: Top-1 error in percent with this unit's gates replaced, see `analysis.ablate`.
        sampled: Numbers of the S channels.
        mean: (L, S).
        deviation: (L, S).
        openers: Images with the largest gates of each sampled channel.
        closers: Images with the smallest.
    """

    name: str
    label: str
    stage: str
    kind: str
    channels: int
    drawn: bool
    gate: float | None
    low: float | None
    high: float | None
    near_one: float | None
    specificity: float | None
    entropy: float | None
    ablation: Mapping[str, float | None] = field(default_factory=dict)
    sampled: tuple[int, ...]
    mean: Lines
    deviation: Lines
    openers: Ends
    closers: Ends


@dataclass(frozen=True, kw_only=True)
class Specific:
    """The channel whose gate tells the classes apart best.

    Attributes:
        unit: Label of its unit.
        channel: Its number.
        specificity: Part of the variance of its gate that is between classes.
        by_class: Each class with images and its mean gate, the largest first.
        openers: Images with the largest gates.
        closers: Images with the smallest.
    """

    unit: str
    channel: int
    specificity: float
    by_class: tuple[tuple[str, float], ...]
    openers: tuple[tuple[int, float | None], ...]
    closers: tuple[tuple[int, float | None], ...]


@dataclass(frozen=True, kw_only=True)
class GatesOnPage:
    """The gates of all units of a network over a data set.

    Attributes:
        model: What the network is called.
        source: Where the images come from.
        images: How many.
        top1_error: Of the network on them, in percent; None where its outputs are no classes of these.
        ablation: Top-1 error with the gates of all units replaced at once.
        lines: "all", then the chosen classes.
        units: In forward order.
        similarity: (U, U), 0 to 1; None with a unit whose gates are the same for all classes.
        thumbnails: Number of an image, as text, -> data URI.
        specific: None where no gate depends on the class.
    """

    model: str
    source: str
    images: int
    top1_error: float | None
    ablation: Mapping[str, float | None] = field(default_factory=dict)
    lines: tuple[GateLine, ...]
    units: tuple[UnitOnPage, ...]
    similarity: Lines
    thumbnails: Mapping[str, str] = field(default_factory=dict)
    specific: Specific | None = None


def worth(top1_error: float | None, ablation: Mapping[str, float | None], images: int) -> str:
    """What the gates' dependence on the image is worth, in words; "" where it was not measured.

    >>> worth(5.0, {"mean": 5.56}, 10_000)
    'Per-image gating is worth 0.56 points here; the rest is a constant scale.'
    """
    fixed = ablation.get("mean")
    if fixed is None or top1_error is None:
        return ""
    gain, wrong = fixed - top1_error, round(abs(fixed - top1_error) * images / 100)
    of = f" ({wrong} of {images:,} images)" if images < COUNTED else ""
    if not wrong:
        return "Per-image gating is worth nothing here: gates fixed at their means give equal errors."
    if gain < 0:
        return f"Per-image gating is worth nothing here: gates fixed at their means are {-gain:.2f} points better{of}."
    return f"Per-image gating is worth {gain:.2f} points here{of}; the rest is a constant scale."


write_gates, read_gates = json_file(GatesOnPage, GATES, indent=None)
