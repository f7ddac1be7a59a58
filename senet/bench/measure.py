"""Time several implementations in one process: check their answers, then time them in shuffled rounds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.bench.machine import Limits, load, seconds_per_call
from senet.bench.result import Case, Row, ratio_of, spread
from senet.errors import ConfigError, RunError, unknown
from senet.progress import Bar

Answer = Tensor | tuple[Tensor, ...]
"""The result of a timed call."""


SENSITIVE = 4
"""Two correct answers may differ by this many times the rounding error of the first, where that is large."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One side of a comparison.

    Attributes:
        name: Its name.
        make: Builds it and returns the call to time. Errors of either are reported in its row.
        like: Name of an earlier side whose first answer this one's must equal; None for an answer of its own.
        tolerance: Largest relative L2 distance for each tensor of the answer.
        exact: Computes the answer in float64; sides like this one may then differ by `SENSITIVE` times its rounding.
        layers: Bytes and operations that each layer must at least move and compute; () if unknown.
    """

    name: str
    make: Callable[[], Callable[[], Answer]]
    like: str | None = None
    tolerance: tuple[float, ...] = (1e-5,)
    exact: Callable[[], Answer] | None = None
    layers: tuple[tuple[float, float], ...] = ()


@dataclass
class _Side:
    """A subject while it is measured."""

    subject: Subject
    run: Callable[[], Answer] | None = None
    calls: int = 1
    samples: list[float] = field(default_factory=list)
    tolerance: tuple[float, ...] = ()
    deviation: tuple[float, ...] | None = None
    memory_mib: float | None = None
    failure: str | None = None


class _Answer(NamedTuple):
    """A side's answer in float64, and how to compute it exactly."""

    parts: list[Tensor]
    exact: Callable[[], Answer] | None


def _parts(answer: Answer) -> list[Tensor]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    # Copies, since a side may overwrite its answer in the next call.
    return [part.detach().to("cpu", torch.float64, copy=True) for part in parts]


def _distances(mine: list[Tensor], wanted: list[Tensor]) -> tuple[float, ...]:
    """Return the relative L2 distance of each tensor."""
    return tuple(float((a - b).norm() / b.norm()) for a, b in zip(mine, wanted, strict=True))


def measure(
    subjects: Sequence[Subject],
    *,
    ratios: Sequence[tuple[str, str]] = (),
    repeats: int = 30,
    warmup: int = 3,
    min_seconds: float = 0.0,
    device: torch.device | None = None,
    limits: Limits | None = None,
    labels: Any = None,
    progress: bool = False,
    clock: Callable[[], float] = perf_counter,
) -> Case:
    """Build all sides, check their answers, then time them in `repeats` rounds of random order.

    A side that raises an error is reported and skipped. After Ctrl-C the result has the finished rounds.

    Args:
        subjects: The sides; ratios of all to the first are computed.
        ratios: Further pairs of names, numerator and denominator.
        repeats: Number of rounds.
        warmup: Calls before the first round, after the one whose answer is checked.
        min_seconds: A sample consists of as many calls as take this long.
        device: The CPU by default.
        limits: The machine's limits, for `Row.limit_ms`.
        labels: Stored in the result.
        progress: Whether to show a bar on standard error.
        clock: Returns seconds; not used on a GPU.

    Raises:
        RunError: If an answer is wrong; nothing is timed then.
        ConfigError: For unknown names or no rounds.

    >>> x = torch.ones(2)
    >>> twice = Subject(name="x + x", make=lambda: lambda: x + x)
    >>> case = measure([twice, Subject(name="2 x", make=lambda: lambda: 2 * x, like="x + x")], repeats=2)
    >>> case.row("2 x").deviation
    (0.0,)
    """
    _check_names(subjects, ratios)
    if repeats < 1:
        raise ConfigError(f"repeats: {repeats} is too small; expected: 1 or more")
    device = device or torch.device("cpu")
    sides = [_Side(subject) for subject in subjects]
    load_before, is_interrupted = load(), False
    try:
        with Bar(total=len(sides) + repeats, show=progress) as bar:
            answers: dict[str, _Answer] = {}
            for side in sides:
                bar.set_description(side.subject.name)
                _prepare(side, answers, warmup, min_seconds, device, clock)
                bar.update()
            bar.set_description("rounds")
            order = random.Random(0)
            for _ in range(repeats):
                running = [side for side in sides if side.failure is None]
                for side in order.sample(running, len(running)):
                    with _reported(side):
                        assert side.run is not None
                        side.samples.append(1000 * seconds_per_call(side.run, side.calls, device, clock))
                bar.update()
    except KeyboardInterrupt:
        is_interrupted = True
        for side in sides:
            if not side.samples and side.failure is None:
                side.failure = "stopped before it was timed"
    rows = tuple(_row(side, limits) for side in sides)
    named = {row.name: row for row in rows}
    base = rows[0].name
    pairs = dict.fromkeys([*((row.name, base) for row in rows[1:]), *ratios])
    return Case(
        labels=labels,
        base=base,
        rows=rows,
        ratios=tuple(ratio_of(named[top], named[bottom]) for top, bottom in pairs),
        load_before=load_before,
        load_after=load(),
        is_interrupted=is_interrupted,
    )


def _check_names(subjects: Sequence[Subject], ratios: Sequence[tuple[str, str]]) -> None:
    names: list[str] = []
    for subject in subjects:
        if subject.name in names:
            raise ConfigError(f"subjects: {subject.name!r} is there twice; expected: different names")
        if subject.like is not None and subject.like not in names:
            raise unknown(f"like of {subject.name!r}", subject.like, names, kind="subjects before it")
        names.append(subject.name)
    if not names:
        raise ConfigError("subjects: none; expected: one or more")
    for name in (name for pair in ratios for name in pair):
        if name not in names:
            raise unknown("ratios", name, names, kind="subjects")


@contextmanager
def _reported(side: _Side) -> Iterator[None]:
    """Record an error of a side; the others continue."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        side.failure, side.run = f"{type(error).__name__}: {reason}", None


def _prepare(
    side: _Side,
    answers: dict[str, _Answer],
    warmup: int,
    min_seconds: float,
    device: torch.device,
    clock: Callable[[], float],
) -> None:
    """Build, check and warm up one side, and measure its memory; `answers` has those of earlier sides by name."""
    is_cuda = device.type == "cuda"
    held = torch.cuda.memory_allocated(device) if is_cuda else 0
    with _reported(side):
        side.run = side.subject.make()
        answers[side.subject.name] = _Answer(_parts(side.run()), side.subject.exact)
    if side.run is None:
        return
    side.tolerance, side.deviation = _deviation(side.subject, answers)
    with _reported(side):
        for _ in range(warmup):
            side.run()
        # A GPU's clock can read zero.
        once = max(seconds_per_call(side.run, 1, device, clock), 1e-6)
        side.calls = max(1, ceil(min_seconds / once))
        if is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
            side.run()
            side.memory_mib = (torch.cuda.max_memory_allocated(device) - held) / 2**20


def _deviation(subject: Subject, answers: Mapping[str, _Answer]) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Return the allowed and the measured distances of a side's answer from that of `like`.

    The latter is None without an answer to compare with. RunError if a distance is too large or NaN.
    """
    tolerance, wanted = subject.tolerance, answers.get(subject.like or "")
    if wanted is None:
        return tolerance, None
    found = _distances(answers[subject.name].parts, wanted.parts)
    if not _are_within(found, tolerance) and wanted.exact is not None:
        rounding = _distances(wanted.parts, _parts(wanted.exact()))
        tolerance = tuple(max(t, SENSITIVE * r) for t, r in zip(tolerance, rounding, strict=True))
    if not _are_within(found, tolerance):
        raise RunError(
            f"{subject.name!r} does not compute what {subject.like!r} does: relative distance "
            f"{', '.join(f'{d:.1e}' for d in found)}, allowed {', '.join(f'{d:.1e}' for d in tolerance)}; "
            f"nothing was timed"
        )
    return tolerance, found


def _are_within(found: tuple[float, ...], allowed: tuple[float, ...]) -> bool:
    # Not `any(f > a)`, which is False for NaN.
    return all(f <= a for f, a in zip(found, allowed, strict=True))


def _row(side: _Side, limits: Limits | None) -> Row:
    subject, layers = side.subject, side.subject.layers
    limit = sum(max(b / limits.bytes_per_s, f / limits.flops_per_s) for b, f in layers) if limits and layers else None
    return Row(
        name=subject.name,
        samples_ms=tuple(side.samples),
        calls=side.calls,
        **(spread(side.samples) if side.failure is None else {}),
        like=subject.like,
        tolerance=None if subject.like is None else side.tolerance or subject.tolerance,
        deviation=side.deviation,
        memory_mib=side.memory_mib,
        bytes=sum(b for b, _ in layers) if layers else None,
        flops=sum(f for _, f in layers) if layers else None,
        limit_ms=None if limit is None else 1000 * limit,
        failure=side.failure,
    )
