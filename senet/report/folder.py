"""From a folder to the page about it, by the typed readers of `senet.runs` and `senet.experiments`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from senet.errors import ConfigError, RunError
from senet.experiments.experiment import TOP1
from senet.experiments.result import Difference, Result, read_results
from senet.files import write_text
from senet.models.describe import Description, describe
from senet.recipes.recipe import Recipe
from senet.report.page import Cell, Headline, Page
from senet.report.render import render
from senet.report.words import count, is_number
from senet.runs.environment import read_environment
from senet.runs.evaluation import Evaluation, read_evaluation
from senet.runs.folder import PAGE, PLAN, RECIPE, RESULT, RUNS
from senet.runs.gates import GatesOnPage, read_gates
from senet.runs.metrics import Epoch, read_metrics
from senet.runs.recipe_file import read_recipe
from senet.runs.summary import RunSummary, read_summary
from senet.weights.ilsvrc import named


def write_page(folder: Path) -> Path:
    """Write report.html into a folder of any kind and return its path.

    Raises:
        RunError: See `page_of`; or the file cannot be written.
    """
    path = folder / PAGE
    write_text(path, render(page_of(folder)))
    return path


def page_of(folder: Path) -> Page:
    """The page about a folder of a run, an experiment or an analysis.

    Raises:
        RunError: The folder is none of these, has no result yet, or a file in it is damaged.
    """
    if (folder / RESULT).is_file():
        return experiment_page(folder, read_results(folder))
    if (folder / PLAN).is_file():
        raise RunError(f"{folder}: this experiment has no result yet; continue with: {_resume(folder)}")
    if (folder / RECIPE).is_file():
        return run_page(folder)
    gates = read_gates(folder)
    if gates is None:
        raise RunError(f"{folder}: not a folder of senet train, compare, reproduce or analyze")
    return gates_page(gates)


def run_page(folder: Path) -> Page:
    """The page about one run; for an unfinished run, about its epochs so far.

    Raises:
        RunError: No epoch has finished yet, or a file is damaged.
    """
    recipe, history, summary = read_recipe(folder), read_metrics(folder), read_summary(folder)
    if not history:
        raise RunError(f"{folder}: no epoch of this run has finished yet; continue with: {_resume(folder)}")
    evaluation = read_evaluation(folder)
    last, done = history[-1], len(history)
    when = "after the last epoch" if summary else f"after epoch {done}"
    return Page(
        kind="Run",
        title=recipe.name,
        subtitle=_run_sentence(recipe, done, is_finished=summary is not None),
        headline=_error_headline(f"top-1 error {when}", last.test_top1_error, last.test_images),
        facts=_run_facts(history, summary, evaluation),
        curves={recipe.name: [history]},
        gates=read_gates(folder) or read_gates(folder / "analysis"),
        evaluation=evaluation and _with_words(evaluation),
        cost=_cost(recipe),
        recipe=recipe,
        seeds=(recipe.train.seed,),
        commands=(_train_again(folder), f"senet evaluate {shlex.quote(str(folder))}"),
        environment=read_environment(folder),
    )


def experiment_page(folder: Path, results: Sequence[Result]) -> Page:
    """The page about the experiments of a folder, as far as their runs have come.

    Raises:
        RunError: The folder of a finished run is missing or damaged.
    """
    alone = results[0] if len(results) == 1 else None
    is_printed = any(result.has_printed for result in results)
    finished = {
        name: folder / RUNS / name
        for result in results
        for row in result.rows
        for name in row.runs
        if (folder / RUNS / name / RECIPE).is_file()
    }
    summaries = [s for path in finished.values() if (s := read_summary(path))]
    planned = {name for result in results for row in result.rows for name in row.runs}
    last = list(finished.values())[-1] if finished else None
    recipe = read_recipe(last) if last else None
    return Page(
        kind="Reproduction" if is_printed else "Comparison",
        title=_title(results, is_printed),
        subtitle=alone.where if alone else "",
        headline=_difference_headline(alone) if alone else None,
        facts=[
            ("runs finished", f"{len(summaries)} of {len(planned)}"),
            ("training, hours", round(sum(s.train_seconds for s in summaries) / 3600, 2)),
            *_verdicts(results, is_printed),
        ],
        results=results,
        curves={
            row.name if alone else f"{result.name}, {row.name}": histories
            for result in results
            for row in result.rows
            if any(histories := [read_metrics(folder / RUNS / name) for name in row.runs])
        },
        cost=_cost(recipe) if recipe else None,
        recipe=recipe,
        seeds=sorted({seed for result in results for seed in result.seeds}),
        commands=[
            *dict.fromkeys(command for result in results for command in result.commands),
            *([_train_again(last)] if last else []),
        ],
        environment=read_environment(last) if last else None,
    )


def gates_page(gates: GatesOnPage) -> Page:
    """The page about a network's gates alone."""
    error = gates.top1_error
    return Page(
        kind="Gates",
        title=gates.model or "Gates",
        subtitle=f"{_plural(len(gates.units), 'unit')} over {count(gates.images)} images. {gates.source}".strip(),
        headline=None if error is None else _error_headline("top-1 error on these images", error, gates.images),
        gates=gates,
    )


def _run_facts(
    history: Sequence[Epoch], summary: RunSummary | None, evaluation: Evaluation | None
) -> list[tuple[str, Cell]]:
    last, best = history[-1], min(history, key=lambda epoch: epoch.test_top1_error)
    facts: list[tuple[str, Cell]] = [
        ("top-1 error, lowest", f"{best.test_top1_error:.2f} % (epoch {best.epoch})"),
        ("top-5 error", f"{last.test_top5_error:.2f} %"),
        ("loss", f"{last.test_loss:.4f}"),
        ("training images", last.train_images),
        ("test images", last.test_images),
    ]
    if summary:
        if summary.skipped_images:
            facts.append(("unreadable images", len(summary.skipped_images)))
        facts += [
            ("parameters", summary.params),
            ("multiply-adds", summary.macs),
            ("time per step, ms", summary.step_ms),
            ("training, s", summary.train_seconds),
        ]
    if evaluation:
        epoch = "" if evaluation.epoch is None else f" (epoch {evaluation.epoch})"
        facts.append(("classes and calibration", f"of best.safetensors{epoch}"))
    return facts


def _run_sentence(recipe: Recipe, epochs: int, *, is_finished: bool) -> str:
    planned = recipe.train.epochs
    length = _plural(epochs, "epoch") if is_finished else f"{epochs} of {_plural(planned, 'epoch')} so far"
    unit = f"{recipe.model.se.kind} units" if recipe.model.se else "no attention unit"
    data = Path(recipe.data.name).name
    return f"{length} on {data}, batch {recipe.data.batch_size}, seed {recipe.train.seed}, {unit}."


def _with_words(evaluation: Evaluation) -> Evaluation:
    """ImageNet's classes in words; the file keeps the data set's own names."""
    words = named(c.name for c in evaluation.per_class)
    classes = zip(evaluation.per_class, words, strict=True)
    return replace(evaluation, per_class=tuple(replace(c, name=word) for c, word in classes))


def _cost(recipe: Recipe) -> Description | None:
    """What a recipe's network costs; None for one that cannot be counted, such as a user's own table."""
    try:
        return describe(recipe.model, recipe.data.image_size)
    except ConfigError:
        return None


def _error_headline(label: str, error: float, images: int) -> Headline:
    """An error in percent with Wilson's interval for this number of images."""
    if not images or not is_number(error):
        return Headline(label=label, value=error)
    from scipy.stats import binomtest

    wrong = round(error * images / 100)
    interval = binomtest(wrong, images).proportion_ci(0.95, method="wilson")
    return Headline(
        label=label,
        value=error,
        low=100 * interval.low,
        high=100 * interval.high,
        note=f"The interval covers the choice of the {count(images)} images, not of the seed.",
    )


def _difference_headline(result: Result) -> Headline | None:
    """The difference of top-1 error, of an experiment that has exactly one."""
    differences = [d for d in result.differences if d.measure == TOP1]
    if len(differences) != 1:
        return None
    d = differences[0]
    return Headline(
        label=d.label,
        value=d.mean,
        unit="points of error",
        low=d.low,
        high=d.high,
        is_difference=True,
        note=f"{_conclusion(d)} Paired over {_plural(d.seeds, 'seed')}.",
    )


def _conclusion(d: Difference) -> str:
    if d.low is None or d.high is None:
        return "One seed, so there is no interval."
    if d.low <= 0 <= d.high:
        return "The interval contains zero: no difference is shown."
    return f"The interval excludes zero: {'fewer' if d.high < 0 else 'more'} errors."


def _verdicts(results: Sequence[Result], is_printed: bool) -> list[tuple[str, Cell]]:
    """How many differences agree with the paper, disagree, and so on."""
    if not is_printed:
        return []
    verdicts = [d.verdict for result in results for d in result.differences if d.measure == TOP1]
    return [(f"differences: {word}", verdicts.count(word)) for word in dict.fromkeys(verdicts)]


def _title(results: Sequence[Result], is_printed: bool) -> str:
    """ "Table 4: ..." for one table of the paper, "Table 4, Table 5" for several; a comparison's own title."""
    names = [re.sub(r"(?<=[a-z])(?=\d)", " ", result.name).capitalize() for result in results]
    if len(results) > 1:
        return ", ".join(names)
    return f"{names[0]}: {results[0].title}" if is_printed else results[0].title


def _train_again(folder: Path) -> str:
    return f"senet train --config {shlex.quote(str(folder / RECIPE))}"


def _resume(folder: Path) -> str:
    return f"senet train --resume {shlex.quote(str(folder))}"


def _plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
