"""What `doctor` found, as values and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "never-run",
    "not-applied",
    "wrong-width",
    "mixes-images",
    "wrong-branch",
    "half-overflow",
    "saturated",
    "constant",
    "no-gradient",
]


@dataclass(frozen=True, kw_only=True)
class UnitRow:
    """What was seen of one unit; None where there is nothing to say, as of the gates of a unit that did not run.

    kind: of a unit of ours, or the class of another.
    channels: of the map it gates.  hidden: width between its two layers.  runs: calls in one forward pass.
    mean_gate: over images and channels.
    over_images, over_channels: standard deviation of a channel's gate, and of an image's gates, on average.
    saturated: part of the gates within 1e-3 of an end of their range.
    alive: part of the hidden layer that is not zero for every image.
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
    """A fault: its kind, the unit's name, and in words what was seen and what to do."""

    kind: Kind
    unit: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `doctor` found; `print(report)` shows it as a table.

    units: one row each, in the order of the network's modules.  findings: the faults.
    notes: what is worth knowing and is no fault.  batch: what the network was run on.
    """

    units: tuple[UnitRow, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    batch: str

    @property
    def healthy(self) -> bool:
        """Whether there is no fault."""
        return not self.findings

    def __str__(self) -> str:
        verdict = _count(len(self.findings), "fault") if self.findings else "no fault"
        lines = [f"{_count(len(self.units), 'unit')}, {verdict}, on {self.batch}"]
        lines += [f"{f.kind}: {f.unit}: {f.message}" for f in self.findings]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*(_table(self.units) if self.units else ()), *lines])


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _table(units: tuple[UnitRow, ...]) -> list[str]:
    """The rows in columns with a line under the head and an empty one at the end."""
    head = (
        "unit",
        "kind",
        "channels",
        "hidden",
        "runs",
        "gate",
        "over images",
        "over channels",
        "saturated",
        "alive",
    )
    rows: list[tuple[str, ...]] = [head]
    for r in units:
        gates = [_cell(value, ".3f") for value in (r.mean_gate, r.over_images, r.over_channels)]
        parts = [_cell(value, ".0%") for value in (r.saturated, r.alive)]
        rows.append((r.name, r.kind, _cell(r.channels, ""), _cell(r.hidden, ""), str(r.runs), *gates, *parts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [
        [cell.rjust(w) if i > 1 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    ]
    lines = ["  ".join(row).rstrip() for row in words]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:], ""]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
