"""Timing that can be trusted: all sides in one process, checked first, interleaved in shuffled rounds."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from senet.bench.machine import Limits, load, seconds_per_call
from senet.bench.result import Case, Row, ratio_of, spread
from senet.errors import ConfigError, RunError, unknown

Answer = Tensor | tuple[Tensor, ...]
"""What a timed call returns."""


SENSITIVE = 4
"""Where rounding moves an answer by much, another right one may be as many times as far from it as it is from exact."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One side of a comparison.

    make: builds it and returns the call that is timed. What either of them raises is reported in the side's row.
    like: an earlier subject whose first answer this one's must equal; None: its answer is its own.
    tolerance: of the relative L2 distance, one for each tensor of the answer.
    exact: gives the answer in float64; those like this one may then be `SENSITIVE` times as far as its own rounding.
    layers: bytes and operations of each layer of a call, the least that there is to do; () where nobody counted.
    """

    name: str
    make: Callable[[], Callable[[], Answer]]
    like: str | None = None
    tolerance: tuple[float, ...] = (1e-5,)
    exact: Callable[[], Answer] | None = None
    layers: tuple[tuple[float, float], ...] = ()


@dataclass
class _Side:
    """A subject as it is being measured."""

    subject: Subject
    run: Callable[[], Answer] | None = None
    calls: int = 1
    samples: list[float] = field(default_factory=list)
    tolerance: tuple[float, ...] = ()
    deviation: tuple[float, ...] | None = None
    memory_mib: float | None = None
    failure: str | None = None


class _Answer(NamedTuple):
    """What a side said, in float64, and how to have it exact."""

    parts: list[Tensor]
    exact: Callable[[], Answer] | None


def _parts(answer: Answer) -> list[Tensor]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    # Copies: a side may write its next answer over this one.
    return [part.detach().to("cpu", torch.float64, copy=True) for part in parts]


def _distances(mine: list[Tensor], wanted: list[Tensor]) -> tuple[float, ...]:
    """The relative L2 distance of each part."""
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
) -> Case:
    """Build all sides, check their answers, then time them in `repeats` rounds, each in an order of its own.

    ratios: pairs of names, top and bottom, beside those of every side to the first.
    warmup: calls before the first round, after the one whose answer is checked.
    min_seconds: a sample is as many calls as take this long.
    device: by default the CPU.  limits: the machine's, for `Row.limit_ms`.
    labels: kept in the result.  progress: shown on standard error.

    A side that raises is reported and left out; Ctrl-C leaves what was measured. Raises RunError where an answer is
    not the one it should be, before any round, and ConfigError for names that are not there, or no rounds.

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
        with tqdm(total=len(sides) + repeats, file=sys.stderr, disable=not progress, leave=False) as bar:
            answers: dict[str, _Answer] = {}
            for side in sides:
                bar.set_description(side.subject.name)
                _prepare(side, answers, warmup, min_seconds, device)
                bar.update()
            bar.set_description("rounds")
            order = random.Random(0)
            for _ in range(repeats):
                running = [side for side in sides if side.failure is None]
                for side in order.sample(running, len(running)):
                    with _reported(side):
                        side.samples.append(1000 * seconds_per_call(side.run, side.calls, device))
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
            raise ConfigError(f"subjects: two are called {subject.name!r}")
        if subject.like is not None and subject.like not in names:
            raise unknown(f"like of {subject.name!r}", subject.like, names, kind="subjects before it")
        names.append(subject.name)
    if not names:
        raise ConfigError("subjects: there is none to measure")
    for name in (name for pair in ratios for name in pair):
        if name not in names:
            raise unknown("ratios", name, names, kind="subjects")


@contextmanager
def _reported(side: _Side) -> Iterator[None]:
    """What a side raises ends that side alone, and is kept for its row."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        side.failure, side.run = f"{type(error).__name__}: {reason}", None


def _prepare(side: _Side, answers: dict[str, _Answer], warmup: int, min_seconds: float, device: torch.device) -> None:
    """Build, check and warm up one side, and count its memory; `answers`: of the sides before it, by name."""
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
        once = max(seconds_per_call(side.run, 1, device), 1e-6)
        side.calls = max(1, ceil(min_seconds / once))
        if is_cuda:
            torch.cuda.reset_peak_memory_stats(device)
            side.run()
            side.memory_mib = (torch.cuda.max_memory_allocated(device) - held) / 2**20


def _deviation(subject: Subject, answers: Mapping[str, _Answer]) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """The relative L2 distances allowed and found from the answer that a side should have.

    None found where there is nothing to compare with. RunError where one is too large, or not a number.
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
    # Not `any(f > a)`, which is false of nan.
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
