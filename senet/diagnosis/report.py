"""The result of `doctor`, as values and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from senet.diagnosis.labels import label

Kind = Literal[
    "never-run",
    "not-applied",
    "wrong-width",
    "mixes-images",
    "wrong-branch",
    "half-overflow",
    "undone",
    "saturated",
    "constant",
    "no-gradient",
]


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """Observations of one unit; None where there are none, such as the gates of a unit that did not run.

    Attributes:
        name: Name of the unit's module.
        kind: Kind of a unit of ours, or the class name of another one.
        channels: Channels of the feature map that it gates.
        hidden: Width between its two layers.
        runs: Calls in one forward pass.
        mean_gate: Mean over images and channels.
        over_images: Standard deviation over images, mean over channels.
        over_channels: Standard deviation over channels, mean over images.
        saturated: Share of the gates within 1e-3 of an end of their range.
        alive: Share of the hidden neurons that are not zero for every image.
    """

    name: str
    kind: str
    channels: int | None
    hidden: int | None
    runs: int
    mean_gate: float | None
    over_images: float | None
    over_channels: float | None
    saturated: float | None
    alive: float | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault of one unit.

    Attributes:
        kind: One of the kinds that `doctor` lists.
        unit: Name of the unit's module.
        message: What was observed and how to fix it.
    """

    kind: Kind
    unit: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of `doctor`; `print(report)` shows it as a table.

    Attributes:
        units: One row per unit, in the order of the network's modules.
        findings: The faults.
        notes: Remarks that are not faults.
        batch: The images it was run on, in words.
    """

    units: tuple[UnitRow, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    batch: str

    @property
    def healthy(self) -> bool:
        """Whether no unit has a fault."""
        return not self.findings

    def __str__(self) -> str:
        lines = [self.verdict]
        lines += [f"{f.kind}: {_named(f.unit)}: {f.message}" for f in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, *(["", *_aligned(self.rows)] if self.units else ())])

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table as cells, its head first."""
        spread = "over images", "over channels"
        found: list[tuple[str, ...]] = [
            ("unit", "kind", "channels", "hidden", "runs", "gate", *spread, "saturated", "alive")
        ]
        for r in self.units:
            counts = (_cell(value, "") for value in (r.channels, r.hidden, r.runs))
            gates = (_cell(value, ".3f") for value in (r.mean_gate, r.over_images, r.over_channels))
            parts = ("-" if value is None else f"{100 * value:.0f} %" for value in (r.saturated, r.alive))
            found.append((label(r.name), r.kind, *counts, *gates, *parts))
        return found

    @property
    def verdict(self) -> str:
        """One line: how many units have faults, and on which images."""
        ill = len({f.unit for f in self.findings})
        some = f"{ill} of {_count(len(self.units), 'unit')} {'have' if ill > 1 else 'has'} a fault"
        healthy = f"{_count(len(self.units), 'unit')}, no fault"
        return f"{some if ill else healthy}, on {self.batch}"


def _named(unit: str) -> str:
    """A unit as the pages call it, with its module where that is another name."""
    return unit if label(unit) == unit else f"{label(unit)} ({unit})"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as aligned columns, with a line below the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [
        [cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    lines = ["  ".join(row).rstrip() for row in words]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
