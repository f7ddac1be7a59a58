"""From a folder to the page about it, by the typed readers of `senet.runs` and `senet.experiments`."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from senet.errors import ConfigError, RunError
from senet.experiments.result import Difference, Result, read_results
from senet.files import write_text
from senet.foreign_models import describe_network
from senet.models.describe import Description
from senet.models.other import OtherNet
from senet.recipes.recipe import PARTS, Recipe
from senet.recipes.task import Task
from senet.report.card import draw_card
from senet.report.page import Cell, Headline, Page
from senet.report.render import render
from senet.report.words import NONE, count, is_number
from senet.runs.detection import read_detection
from senet.runs.environment import read_environment
from senet.runs.evaluation import COUNTED, Evaluation, class_counts, interval, read_evaluation
from senet.runs.folder import CARD, PAGE, PLAN, RECIPE, RESULT, RUNS
from senet.runs.gates import GatesOnPage, read_gates, worth
from senet.runs.metrics import Epoch, best_epoch, read_metrics
from senet.runs.recipe_file import read_recipe
from senet.runs.summary import RunSummary, read_summary
from senet.weights.ilsvrc import named

STILL = 0.99
"""An inserted unit with at least this share of its gates near 1, where it started, has hardly moved."""


def write_page(folder: Path) -> Path:
    """Write report.html and its picture into a folder of any kind and return the page's path.

    Raises:
        RunError: See `page_of`; or the file cannot be written.
    """
    path, page = folder / PAGE, page_of(folder)
    draw_card(folder / CARD, page)
    write_text(path, render(page, card=CARD))
    return path


def page_of(folder: Path) -> Page:
    """The page about a folder of a run, an experiment or an analysis.

    Raises:
        RunError: It is another kind of folder, has no result yet, or a file in it is damaged.
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
    task = recipe.task
    part, figure, images = last.part, last.measured[task.main], last.eval_images
    if summary:
        part, figure, images = summary.part, summary.measured[task.main], summary.eval_images
        when = f"with the weights of epoch {summary.epoch}" if summary.epoch < done else when
    value = math.nan if figure is None else figure
    headline, best = _headline(task, f"{PARTS[part]} {task.word} {when}", value, images), None
    if last.part == "val":
        chosen = best_epoch(history, task)
        best_value = chosen.measured[task.main]
        best = Headline(
            label=f"{PARTS['val']} {task.word} of the best epoch, {chosen.epoch}",
            value=math.nan if best_value is None else best_value,
            note="" if best_value is None or task.higher else _count(best_value, last.eval_images),
            is_sure=headline.is_sure,
        )
    return Page(
        kind="Run",
        title=recipe.name,
        sentence="" if task.higher else _error_sentence(value, images, f"{PARTS[part]} images", when),
        subtitle=_run_sentence(recipe, done, is_finished=summary is not None),
        headline=headline,
        best=best,
        facts=_run_facts(history, summary, evaluation, task),
        notes=summary.notes if summary else (),
        curves={recipe.name: [history]},
        gates=read_gates(folder / "analysis") or read_gates(folder),
        evaluation=evaluation and _with_words(evaluation),
        detection=read_detection(folder),
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
        sentence=alone.sentence if alone and not is_printed else "",
        subtitle=alone.where if alone else "",
        headline=_difference_headline(alone) if alone else None,
        links={
            row.name: found
            for row in (alone.rows if alone else ())
            if (
                found := [
                    (seed, f"{RUNS}/{quote(name)}/{PAGE}")
                    for seed, name in zip(alone.seeds if alone else (), row.runs, strict=True)
                    if (folder / RUNS / name / PAGE).is_file()
                ]
            )
        },
        facts=[
            ("runs finished", f"{len(summaries)} of {len(planned)}"),
            ("training, hours", round(sum(s.train_seconds for s in summaries) / 3600, 2)),
            *_verdicts(results, is_printed),
        ],
        notes=tuple(_still_units(finished.values())),
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
        sentence=worth(error, gates.ablation, gates.images),
        subtitle=f"{_plural(len(gates.units), 'unit')} over {count(gates.images)} images. {gates.source}".strip(),
        headline=None if error is None else _error_headline("top-1 error on these images", error, gates.images),
        gates=gates,
    )


def _run_facts(
    history: Sequence[Epoch], summary: RunSummary | None, evaluation: Evaluation | None, task: Task
) -> list[tuple[str, Cell]]:
    last = history[-1]
    measured = summary.measured if summary else last.measured
    loss = measured.get("loss")
    facts: list[tuple[str, Cell]] = [
        *((words, _percent(measured[m])) for m, words in task.measures.items() if m != task.main),
        ("loss" if loss is not None else "training loss", f"{last.train['loss'] if loss is None else loss:.4f}"),
        ("training images", last.train_images),
        (f"{PARTS[last.part]} images", last.eval_images),
    ]
    if summary:
        if summary.part != last.part:
            facts.append((f"{PARTS[summary.part]} images", summary.eval_images))
        things = "objects" if task.name == "detection" else "images"
        facts.append((f"training {things} by class", class_counts(summary.class_images, things.removesuffix("s"))))
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
        facts.append(("classes and calibration", f"of the weights that were kept{epoch}"))
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
        return describe_network(recipe.model, recipe.data.image_size)
    except ConfigError:
        return None


def _headline(task: Task, label: str, figure: float, images: int) -> Headline:
    """A task's figure; an error has an interval, and no interval of AP is known from one run."""
    if task.higher:
        return Headline(
            label=label, value=figure, note=f"{images:,} images; higher is better.", is_sure=images >= COUNTED
        )
    return _error_headline(label, figure, images)


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} %"


def _error_headline(label: str, error: float, images: int) -> Headline:
    """An error in percent with Wilson's interval for this number of images."""
    if not images or not is_number(error):
        return Headline(label=label, value=error)
    low, high = interval(error, images)
    return Headline(
        label=label,
        value=error,
        low=low,
        high=high,
        note=_count(error, images),
        is_sure=high - low <= error,
    )


def _difference_headline(result: Result) -> Headline | None:
    d = result.difference
    if d is None:
        return None
    return Headline(
        label=d.label,
        value=d.mean,
        unit=f"points of {result.of.word}",
        low=d.low,
        high=d.high,
        is_difference=True,
        note=_conclusion(d, result),
        is_sure=d.is_shown,
    )


def _conclusion(d: Difference, result: Result) -> str:
    if d.low is None or d.high is None:
        return "One seed, so there is no interval."
    if not d.is_shown:
        return f"The interval contains zero: no difference is shown. Paired over {d.seeds} seeds."
    few, many = ("lower", "higher") if result.of.higher else ("fewer", "more")
    return f"The interval excludes zero: {few if d.high < 0 else many} {result.words}. Paired over {d.seeds} seeds."


def _error_sentence(error: float, images: int, words: str, when: str) -> str:
    if not images or not is_number(error):
        return ""
    if images >= COUNTED:
        return f"{error:.2f} % of {images:,} {words} are wrong {when}."
    count = round(error * images / 100)
    return f"{count} of {images} {words} {'is' if count == 1 else 'are'} wrong {when}."


def _count(error: float, images: int) -> str:
    return f"{round(error * images / 100)} of {images} images" if images < COUNTED else ""


def _still_units(runs: Iterable[Path]) -> Iterator[str]:
    """A note on each run whose inserted units hardly moved, of those whose gates were measured."""
    for folder in runs:
        recipe, gates = read_recipe(folder), read_gates(folder)
        if gates is None or not isinstance(recipe.model, OtherNet) or recipe.model.se is None:
            continue
        near = [unit.near_one for unit in gates.units if unit.near_one is not None]
        if near and min(near) >= STILL:
            share, seed = int(100 * min(near)), recipe.train.seed
            yield (
                f"{recipe.name}, seed {seed}: {share} % or more of each unit's gates are within 0.05 of 1, "
                "where inserted units start, so they do next to nothing; train longer, or at a higher rate"
            )


def _verdicts(results: Sequence[Result], is_printed: bool) -> list[tuple[str, Cell]]:
    """How many differences agree with the paper, disagree, and so on."""
    if not is_printed:
        return []
    verdicts = [d.verdict for result in results for d in result.differences if d.measure == result.main]
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
