"""The result of a benchmark and its JSON file."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from senet.config import to_dict
from senet.files import write_text

RESAMPLES = 1000
"""Bootstrap samples for an interval."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one side; None for what was not measured.

    Attributes:
        name: Its name.
        samples_ms: Milliseconds per call in each round.
        calls: Consecutive calls in a sample.
        median_ms: Median of the samples.
        low_ms: Lower quartile.
        high_ms: Upper quartile.
        mad_ms: Median absolute deviation.
        like: The side whose answer this one's had to equal; None for an answer of its own.
        tolerance: Allowed relative L2 distance from it for each tensor of the answer.
        deviation: Measured relative L2 distance.
        memory_mib: Peak device memory of this side alone, with its weights, by torch's allocator.
        bytes: Bytes that a call must at least move, summed over its layers.
        flops: Operations that a call must at least do, with direct convolutions.
        limit_ms: Time for these at the machine's limits, the slower of both for each layer.
        failure: Why there are no times.
    """

    name: str
    samples_ms: tuple[float, ...] = ()
    calls: int = 1
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    mad_ms: float | None = None
    like: str | None = None
    tolerance: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    memory_mib: float | None = None
    bytes: float | None = None
    flops: float | None = None
    limit_ms: float | None = None
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The ratio of two medians with its 95 % interval; None if one of the sides has no times.

    Attributes:
        top: Name of the numerator.
        bottom: Name of the denominator.
        value: The ratio.
        low: 2.5th percentile of a bootstrap over rounds, with both sides of a round together.
        high: 97.5th percentile.
    """

    top: str
    bottom: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sides that were measured together.

    Attributes:
        labels: What distinguishes this case, such as its batch size.
        base: Name of the first side, the denominator of the first ratios.
        rows: The sides.
        ratios: Ratios of all sides to the base, then the others asked for.
        load_before: Load average before.
        load_after: Load average after.
        is_interrupted: Whether it was stopped before the last round.
    """

    labels: Any
    base: str
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    load_before: float | None = None
    load_after: float | None = None
    is_interrupted: bool = False

    def row(self, name: str) -> Row:
        """Return a side by its name."""
        return next(row for row in self.rows if row.name == name)

    def ratio(self, top: str, bottom: str) -> Ratio:
        """Return the ratio of two sides."""
        return next(r for r in self.ratios if (r.top, r.bottom) == (top, bottom))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark.

    Attributes:
        title: What was measured.
        machine: Hardware and versions.
        settings: The options.
        copy_gb_s: Bytes read and written by a large copy, 1e9 per second.
        matmul_tflop_s: Operations of a matrix product, 1e12 per second.
        cases: The results.
    """

    title: str
    machine: Any
    settings: Any
    copy_gb_s: float
    matmul_tflop_s: float
    cases: tuple[Case, ...] = ()


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles and median absolute deviation, under the names of `Row`.

    >>> spread([3.0, 1.0, 2.0, 10.0, 4.0])
    {'median_ms': 3.0, 'low_ms': 2.0, 'high_ms': 4.0, 'mad_ms': 1.0}
    """
    middle = median(samples)
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (middle,) * 3
    return {"median_ms": middle, "low_ms": low, "high_ms": high, "mad_ms": median(abs(s - middle) for s in samples)}


def ratio_of(top: Row, bottom: Row) -> Ratio:
    """Compute the ratio of two sides over the rounds that both ran."""
    if top.median_ms is None or bottom.median_ms is None:
        return Ratio(top=top.name, bottom=bottom.name)
    pairs = list(zip(top.samples_ms, bottom.samples_ms, strict=False))

    def ratio(rounds: list[tuple[float, float]]) -> float:
        return median(a for a, _ in rounds) / median(b for _, b in rounds)

    draw = random.Random(0)
    found = sorted(ratio(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    edge = RESAMPLES // 40
    return Ratio(top=top.name, bottom=bottom.name, value=ratio(pairs), low=found[edge], high=found[-1 - edge])


def write_bench(path: Path, bench: Bench) -> None:
    """Write JSON; RunError if that fails."""
    write_text(path, json.dumps(to_dict(bench), indent=1) + "\n")
