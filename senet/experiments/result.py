"""What came out of an experiment: errors of each row over the seeds, and the one paired difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from senet.experiments.experiment import TOP1, Experiment, Row
from senet.recipes.recipe import PARTS
from senet.recipes.task import CLASSIFICATION, TASKS, Task
from senet.runs.evaluation import COUNTED
from senet.runs.folder import RESULT, read_value, write_value
from senet.runs.summary import RunSummary

FIRST = (CLASSIFICATION.main, "ap", "ap50", "ap75")
"""Measures that are shown where the paper prints none."""

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
        errors: Measure -> errors of the runs, see `RunSummary`.
        best_errors: Best figure of all epochs on the validation images, of each run; None without them.
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
        step_noise: How far the ratio varies between epochs.
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
    step_noise: float = 0.0
    printed: float | None = None
    verdict: Verdict

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def is_step_noise(self) -> bool:
        """Whether the times per step differ by no more than they do between epochs."""
        return abs(self.step_ratio - 1) <= self.step_noise

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
        part: Which images the errors are of, "val" or "test".
        eval_images: How many images the errors are of.
        epochs: Of the finished runs, each number once, rising.
        seeds: Of each row.
        finished: Number of finished runs.
        planned: Number of all runs.
        train_seconds: Of all finished runs.
        rows: In the order of the experiment.
        differences: Of each row that is compared, in each measure.
        task: What the networks are trained to do, "classification" or "detection".
        measures: Name of a measure -> the words for it.
        shown: The measures that the paper prints too; where it prints none, the first, and AP50 and AP75 beside AP.
        differs: How the experiment differs from the paper, one line each.
        failed: Name of a run -> why it failed.
        paper_run: What the paper's own run needed, in words.
        commands: The command lines that led here.
    """

    name: str
    title: str
    data: str
    train_images: int
    part: str
    eval_images: int
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    finished: int
    planned: int
    train_seconds: float
    rows: tuple[RowResult, ...]
    differences: tuple[Difference, ...]
    task: str = CLASSIFICATION.name
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
    def is_of_best(self) -> bool:
        """Whether the errors are those of test images in the epoch that was best on the validation images."""
        return self.part == "test" and any(e is not None for row in self.rows for e in row.best_errors)

    @property
    def of(self) -> Task:
        """What the networks are trained to do."""
        return TASKS.get(self.task, CLASSIFICATION)

    @property
    def main(self) -> str:
        """The measure that is compared first."""
        return self.of.main

    @property
    def words(self) -> str:
        """What the figures are, in a sentence: "errors", "AP"."""
        return self.of.word if self.of.higher else f"{self.of.word}s"

    @property
    def difference(self) -> Difference | None:
        """The difference of the first measure, of an experiment that has exactly one."""
        found = [d for d in self.differences if d.measure == self.main]
        return found[0] if len(found) == 1 else None

    @property
    def sentence(self) -> str:
        """What came out, as one would say it; "" where not exactly two rows are compared."""
        d, n = self.difference, self.eval_images
        if d is None or not n:
            return ""
        pair = [next(row for row in self.rows if row.name == name) for name in (d.minus, d.row)]
        both = [
            (a, b)
            for a, b in zip(*(row.errors[self.main].by_seed for row in pair), strict=True)
            if a is not None and b is not None
        ]
        (name, base), (other, new) = (
            (row.name, statistics.fmean(errors)) for row, errors in zip(pair, zip(*both, strict=True), strict=True)
        )
        images = f"{PARTS.get(self.part, self.part)} images"
        if self.of.higher:
            of = f"{base:.2f} and {new:.2f} % on {n:,} {images} with {name} and {other}"
            over = f"over {d.seeds} seeds" if d.seeds > 1 else "in one run each"
            if not d.is_shown:
                return f"No measurable difference in {self.words} {over}: {of}."
            return f"{other} has a {'higher' if new > base else 'lower'} {self.words} than {name} {over}: {of}."
        if d.seeds == 1:
            counts = [round(error * n / 100) for error in (base, new)]
            of = f"{counts[0]:,} and {counts[1]:,} of {n:,} {images} wrong with {name} and {other}"
            if is_chance(counts[0], counts[1], n):
                return f"No measurable difference: {of}."
            fewer = "fewer" if new < base else "more"
            return f"In one run each, {other} makes {fewer} errors: {of}. More seeds show whether that is chance."
        if n < COUNTED:
            of = f"on average {base * n / 100:.1f} and {new * n / 100:.1f} of {n} {images}"
        else:
            of = f"{base:.2f} and {new:.2f} % of {n:,} {images}"
        of += f" wrong with {name} and {other}"
        if not d.is_shown:
            return f"No measurable difference over {d.seeds} seeds: {of}."
        return f"{other} makes {'fewer' if new < base else 'more'} errors than {name} over {d.seeds} seeds: {of}."

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
        when = "of the best epoch on the validation images" if self.is_of_best else "after the last epoch"
        words = PARTS.get(self.part, self.part)
        return (
            f"{self.data}, {self.train_images:,} training and {self.eval_images:,} {words} images, "
            f"{length} epoch{'s' if last > 1 else ''}, {n} seed{'s' if n > 1 else ''}; {self.words} {when}. "
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


def measures(task: Task, crops: Sequence[int]) -> dict[str, str]:
    """What is measured, and the words for it; `crops`: further sizes in pixels at which the networks are evaluated."""
    known = dict(task.measures)
    return known | {f"{m}_{size}": f"{name} at {size} pixels" for size in crops for m, name in known.items()}


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
    names = measures(experiment.task, experiment.crops)
    rows = tuple(_row_result(row, experiment, summaries, crops) for row in experiment.rows)
    done = [summaries[name] for name in experiment.runs if name in summaries]
    printed = {m for row in experiment.rows for m in row.printed}
    return Result(
        name=experiment.name,
        title=experiment.title,
        data=done[0].data if done else "",
        train_images=done[0].train_images if done else 0,
        part=done[0].part if done else "test",
        eval_images=done[0].eval_images if done else 0,
        epochs=tuple(sorted({s.epochs for s in done})),
        seeds=experiment.seeds,
        finished=len(done),
        planned=len(experiment.runs),
        train_seconds=round(sum(s.train_seconds for s in done), 1),
        rows=rows,
        differences=tuple(_differences(experiment, rows, summaries)),
        task=experiment.task.name,
        measures=names,
        shown=tuple(m for m in names if m in printed) or tuple(m for m in names if m in FIRST),
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
    task = experiment.task
    by_measure: dict[str, list[float | None]] = {
        m: [None if s is None else s.measured[m] for s in of_runs]
        if m in task.measures
        else [crops.get(name, {}).get(m) for name in runs]
        for m in measures(task, experiment.crops)
    }
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
        best_errors=tuple(None if s is None else s.best for s in of_runs),
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
        for measure in measures(experiment.task, experiment.crops):
            errors, against = here.errors[measure], base.errors[measure]
            pairs = [
                (a, b, *_step_ratio(summaries[run], summaries[base_run]))
                for a, b, run, base_run in zip(errors.by_seed, against.by_seed, here.runs, base.runs, strict=True)
                if a is not None and b is not None
            ]
            if pairs:
                ours, bases, ratios, noises = zip(*pairs, strict=True)
                both = errors.printed is not None and against.printed is not None
                printed = round(errors.printed - against.printed, 2) if both else None  # type: ignore[operator]
                d = paired_difference(row.name, row.minus, ours, bases, ratios, measure=measure, printed=printed)
                found.append(replace(d, step_noise=statistics.median(noises)))
    return found


def _step_ratio(run: RunSummary, base: RunSummary) -> tuple[float, float]:
    """The ratio of the times per step, and how far it varies between epochs."""
    noise = run.step_spread_ms / run.step_ms + base.step_spread_ms / base.step_ms
    return run.step_ms / base.step_ms, noise


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


def is_chance(a: int, b: int, images: int) -> bool:
    """Whether two networks' counts of wrong answers may differ by chance (Fisher's exact test, 5 %).

    >>> is_chance(1, 2, 359), is_chance(10, 40, 359)
    (True, False)
    """
    from scipy.stats import fisher_exact

    return bool(fisher_exact([[a, images - a], [b, images - b]])[1] > 0.05)  # type: ignore[operator]


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
