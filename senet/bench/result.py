"""What a benchmark found, as plain values: written as JSON, read back, and the same numbers everywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from senet.config import from_dict, to_dict
from senet.errors import RunError
from senet.files import write_text

RESAMPLES = 1000
"""Of the rounds, for an interval."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One side. What was not measured is None.

    samples_ms: of each round, milliseconds per call.  calls: in each sample, one after another.
    median_ms, low_ms, high_ms: the median and the quartiles.  mad_ms: the median distance from the median.
    like: the side whose answer this one's had to equal; None: its answer is its own.
    tolerance, deviation: the relative L2 distance of the two answers, allowed and found, for each of their tensors.
    memory_mib: the device's peak for this side alone, weights included, as its allocator counts.
    bytes, flops: the least that a call must move and compute, convolutions done directly; the sums over its layers.
    limit_ms: what these take at the machine's copy and matmul rates, layer by layer the slower of the two.
    failure: why there are no times.
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
    """The median of one side over that of another, with a 95 % interval; None where one of them has no times.

    low, high: percentiles over resampled rounds, both sides of a round drawn together.
    """

    top: str
    bottom: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sides measured together.

    labels: what sets this case apart, such as its batch size.  base: the side that `ratios` to all others begin with.
    load_before, load_after: processes that ran or waited, on average over a minute.
    is_interrupted: whether it was stopped before the last round.
    """

    labels: Any
    base: str
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    load_before: float | None = None
    load_after: float | None = None
    is_interrupted: bool = False

    def row(self, name: str) -> Row:
        """A side by its name."""
        return next(row for row in self.rows if row.name == name)

    def ratio(self, top: str, bottom: str) -> Ratio:
        """One side over another."""
        return next(r for r in self.ratios if (r.top, r.bottom) == (top, bottom))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark.

    machine, settings: hardware and versions, and what was asked for.
    copy_gb_s: bytes read and written by a large copy, in 1e9 a second.  matmul_tflop_s: 1e12 a second.
    """

    title: str
    machine: Any
    settings: Any
    copy_gb_s: float
    matmul_tflop_s: float
    cases: tuple[Case, ...] = ()


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and median distance from the median, by the names of `Row`.

    >>> spread([3.0, 1.0, 2.0, 10.0, 4.0])
    {'median_ms': 3.0, 'low_ms': 2.0, 'high_ms': 4.0, 'mad_ms': 1.0}
    """
    middle = median(samples)
    low, _, high = quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else (middle,) * 3
    return {"median_ms": middle, "low_ms": low, "high_ms": high, "mad_ms": median(abs(s - middle) for s in samples)}


def ratio_of(top: Row, bottom: Row) -> Ratio:
    """The ratio of two sides over the rounds that both ran."""
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
    """Write JSON; RunError where it cannot be written."""
    write_text(path, json.dumps(to_dict(bench), indent=1) + "\n")


def read_bench(path: Path) -> Bench:
    """What `write_bench` wrote; RunError where there is no such file, ConfigError where it is no benchmark."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: no benchmark can be read there: {error}") from error
    return from_dict(Bench, data)
