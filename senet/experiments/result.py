"""What came out of an experiment: errors of each row over the seeds, and the one paired difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from senet.experiments.experiment import TOP1, TOP5, Experiment, Row
from senet.runs.folder import RESULT, read_value, write_value
from senet.runs.summary import RunSummary

MEASURES = {TOP1: "top-1 error", TOP5: "top-5 error"}

Verdict = Literal["agrees", "disagrees", "open", "equal", "clear"]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """One measure of a row, in percent.

    Attributes:
        by_seed: Of each run, in the order of the seeds; None for one that failed or is still to come.
        mean: Over the finished runs; None for none.
        deviation: Sample standard deviation; None for fewer than two runs.
        printed: The paper's; None where it gives none.
    """

    by_seed: tuple[float | None, ...]
    mean: float | None
    deviation: float | None
    printed: float | None = None

    @classmethod
    def of(cls, by_seed: Sequence[float | None], printed: float | None = None) -> Errors:
        """From the errors of the runs."""
        have = [e for e in by_seed if e is not None]
        return cls(
            by_seed=tuple(by_seed),
            mean=statistics.fmean(have) if have else None,
            deviation=statistics.stdev(have) if len(have) > 1 else None,
            printed=printed,
        )

    @property
    def text(self) -> str:
        """Mean and deviation, "8.13 ± 0.21"; "" without a finished run."""
        if self.mean is None:
            return ""
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """A row's runs.

    Attributes:
        name: Of the row.
        network: Of its recipe; None for a result of others. So the numbers below, and where no run has finished.
        runs: Names of its run folders, in the order of the seeds.
        finished: How many of them have.
        epochs: Of a run.
        params: Parameters.
        macs: Multiply-adds for one image.
        step_ms: Median over the runs of the time of a training step, in milliseconds.
        train_seconds: Mean training time of a run.
        errors: Measure -> errors after the last epoch.
        best_errors: Lowest top-1 error of all epochs, of each run.
        note: What a reader of the figures must know.
    """

    name: str
    network: str | None
    runs: tuple[str, ...]
    finished: int
    epochs: int | None
    params: int | None
    macs: int | None
    step_ms: float | None
    train_seconds: float | None
    errors: Mapping[str, Errors]
    best_errors: tuple[float | None, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row's error minus another row's, paired over the seeds that both have; in percentage points.

    Attributes:
        row: Name of the row.
        minus: Name of the other.
        measure: Of `Result.measures`.
        seeds: Number of pairs.
        mean: Over the pairs.
        deviation: Sample standard deviation of the pairs; None for one.
        low: Lower end of the 95 % confidence interval of the mean by Student's t; None for one pair.
        high: Upper end.
        step_ratio: Median of the ratios of the times per training step.
        printed: The paper's difference; None where it gives none.
        verdict: What the interval says of it, see `verdict`.
    """

    row: str
    minus: str
    measure: str = TOP1
    seeds: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    step_ratio: float
    printed: float | None = None
    verdict: Verdict

    @property
    def label(self) -> str:
        """ "se_resnet20 minus resnet20"."""
        return f"{self.row} minus {self.minus}"

    @property
    def interval(self) -> str:
        """ "-1.20 to -0.31"; "" for one pair."""
        return "" if self.low is None else f"{self.low:+.2f} to {self.high:+.2f}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out of an experiment so far.

    Attributes:
        name: Of the experiment.
        title: What it is about.
        data: Name of the data set; "" before a run has finished. Of the first finished run, so the next two.
        train_images: Images in an epoch of training.
        test_images: Images that the errors are of.
        epochs: Of the finished runs, each number once, rising.
        seeds: Of each row.
        finished: Number of finished runs.
        planned: Number of all runs.
        train_seconds: Of all finished runs.
        rows: In the order of the experiment.
        differences: Of each row that is compared, in each measure.
        measures: Name of a measure -> the words for it.
        shown: The measures that the paper prints too; top-1 error where it prints none.
        differs: How the experiment differs from the paper, one line each.
        failed: Name of a run -> why it failed.
        paper_run: What the paper's own run needed, in words.
        commands: The command lines that led here.
    """

    name: str
    title: str
    data: str
    train_images: int
    test_images: int
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    finished: int
    planned: int
    train_seconds: float
    rows: tuple[RowResult, ...]
    differences: tuple[Difference, ...]
    measures: Mapping[str, str]
    shown: tuple[str, ...]
    differs: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    paper_run: str = ""
    commands: tuple[str, ...] = ()

    @property
    def has_printed(self) -> bool:
        """Whether the paper prints an error of any row."""
        return any(errors.printed is not None for row in self.rows for errors in row.errors.values())

    @property
    def where(self) -> str:
        """A sentence about data, epochs, seeds and how many runs have finished."""
        if not self.finished:
            return "No run has finished yet."
        spent = self.train_seconds
        time = (
            f"{spent / 3600:.1f} hours"
            if spent > 3600
            else f"{spent / 60:.1f} minutes"
            if spent > 60
            else f"{spent:.0f} s"
        )
        first, last = self.epochs[0], self.epochs[-1]
        length = f"{first} to {last}" if first != last else f"{first}"
        n = len(self.seeds)
        return (
            f"{self.data}, {self.train_images:,} training and {self.test_images:,} test images, "
            f"{length} epoch{'s' if last > 1 else ''}, {n} seed{'s' if n > 1 else ''}; errors after the last epoch. "
            f"{self.finished} of {self.planned} runs finished, {time} of training."
        )


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of all experiments of a folder: result.json."""

    experiments: tuple[Result, ...]


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Write result.json; RunError where it cannot be written."""
    write_value(folder / RESULT, Results(experiments=tuple(results)))


def read_results(folder: Path) -> tuple[Result, ...]:
    """The results of an experiment's folder; RunError where there are none, or they are of another senet."""
    return read_value(Results, folder / RESULT).experiments


def measures(crops: Sequence[int]) -> dict[str, str]:
    """What is measured, and the words for it; `crops`: further sizes in pixels at which the networks are evaluated."""
    return MEASURES | {f"{m}_{size}": f"{name} at {size} pixels" for size in crops for m, name in MEASURES.items()}


def build_result(
    experiment: Experiment,
    summaries: Mapping[str, RunSummary],
    failed: Mapping[str, str],
    crops: Mapping[str, Mapping[str, float]],
) -> Result:
    """The result of an experiment, as far as its runs have come.

    Args:
        experiment: What was planned.
        summaries: Name of a run -> its summary, of the finished ones.
        failed: Name of a run -> why it failed.
        crops: Name of a run -> its errors at the further sizes of `experiment.crops`, by measure.
    """
    names = measures(experiment.crops)
    rows = tuple(_row_result(row, experiment, summaries, crops) for row in experiment.rows)
    done = [summaries[name] for name in experiment.runs if name in summaries]
    printed = {m for row in experiment.rows for m in row.printed}
    return Result(
        name=experiment.name,
        title=experiment.title,
        data=done[0].data if done else "",
        train_images=done[0].train_images if done else 0,
        test_images=done[0].test_images if done else 0,
        epochs=tuple(sorted({s.epochs for s in done})),
        seeds=experiment.seeds,
        finished=len(done),
        planned=len(experiment.runs),
        train_seconds=round(sum(s.train_seconds for s in done), 1),
        rows=rows,
        differences=tuple(_differences(experiment, rows, summaries)),
        measures=names,
        shown=tuple(m for m in names if m in printed) or (TOP1,),
        differs=experiment.differs,
        failed={name: failed[name] for name in experiment.runs if name in failed},
        paper_run=experiment.paper_run,
        commands=experiment.commands,
    )


def _row_result(
    row: Row,
    experiment: Experiment,
    summaries: Mapping[str, RunSummary],
    crops: Mapping[str, Mapping[str, float]],
) -> RowResult:
    runs = [experiment.run_name(row.recipe, seed) for seed in experiment.seeds] if row.recipe else []
    of_runs = [summaries.get(name) for name in runs]
    done = [s for s in of_runs if s is not None]
    own: dict[str, list[float | None]] = {
        TOP1: [None if s is None else s.top1_error for s in of_runs],
        TOP5: [None if s is None else s.top5_error for s in of_runs],
    }
    by_measure = {m: own.get(m) or [crops.get(name, {}).get(m) for name in runs] for m in measures(experiment.crops)}
    return RowResult(
        name=row.name,
        network=row.recipe.name if row.recipe else None,
        runs=tuple(runs),
        finished=len(done),
        epochs=done[0].epochs if done else None,
        params=done[0].params if done else None,
        macs=done[0].macs if done else None,
        step_ms=statistics.median(s.step_ms for s in done) if done else None,
        train_seconds=statistics.fmean(s.train_seconds for s in done) if done else None,
        errors={m: Errors.of(errors, row.printed.get(m)) for m, errors in by_measure.items()},
        best_errors=tuple(None if s is None else s.best_top1_error for s in of_runs),
        note=row.note,
    )


def _differences(
    experiment: Experiment, rows: Sequence[RowResult], summaries: Mapping[str, RunSummary]
) -> list[Difference]:
    by_name = {row.name: row for row in rows}
    found = []
    for row in experiment.rows:
        if not row.minus:
            continue
        here, base = by_name[row.name], by_name[row.minus]
        for measure in measures(experiment.crops):
            errors, against = here.errors[measure], base.errors[measure]
            pairs = [
                (a, b, summaries[run].step_ms / summaries[base_run].step_ms)
                for a, b, run, base_run in zip(errors.by_seed, against.by_seed, here.runs, base.runs, strict=True)
                if a is not None and b is not None
            ]
            if pairs:
                ours, bases, ratios = zip(*pairs, strict=True)
                both = errors.printed is not None and against.printed is not None
                printed = round(errors.printed - against.printed, 2) if both else None  # type: ignore[operator]
                found.append(
                    paired_difference(row.name, row.minus, ours, bases, ratios, measure=measure, printed=printed)
                )
    return found


def paired_difference(
    row: str,
    minus: str,
    errors: Sequence[float],
    base: Sequence[float],
    ratios: Sequence[float],
    *,
    measure: str = TOP1,
    printed: float | None = None,
) -> Difference:
    """The paired comparison of two rows' errors.

    Args:
        row: Name of the first.
        minus: Name of the second.
        errors: Of the first in percent, seed by seed.
        base: Of the second, for the same seeds.
        ratios: Of their times per step.
        measure: What the errors are.
        printed: The paper's difference.

    >>> d = paired_difference("b", "a", [1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [1.0, 1.1, 1.2])
    >>> d.mean, d.low, d.high, d.step_ratio
    (-1.0, -1.0, -1.0, 1.1)
    """
    from scipy.stats import t

    n = len(errors)
    gaps = [a - b for a, b in zip(errors, base, strict=True)]
    mean = statistics.fmean(gaps)
    deviation = low = high = None
    if n > 1:
        deviation = statistics.stdev(gaps)
        half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        low, high = mean - half, mean + half
    return Difference(
        row=row,
        minus=minus,
        measure=measure,
        seeds=n,
        mean=mean,
        deviation=deviation,
        low=low,
        high=high,
        step_ratio=statistics.median(ratios),
        printed=printed,
        verdict=verdict(low, high, printed),
    )


def verdict(low: float | None, high: float | None, printed: float | None) -> Verdict:
    """What an interval says of the paper's difference: its sign alone, for its size depends on data and epochs.

    "agrees" and "disagrees": the interval excludes zero, and the sign is the paper's or not. "clear": it excludes zero
    and the paper gives no figure. "equal": the errors are the same in every seed. "open": too few or too noisy runs.

    >>> verdict(-2.0, -0.5, -1.02), verdict(-2.0, 0.5, -1.02), verdict(0.5, 2.0, -1.02), verdict(0.0, 0.0, -1.02)
    ('agrees', 'open', 'disagrees', 'equal')
    """
    if low is None or high is None:
        return "open"
    if low <= 0 <= high:
        return "equal" if low == high else "open"
    if printed is None:
        return "clear"
    return "agrees" if (low > 0 and printed > 0) or (high < 0 and printed < 0) else "disagrees"
