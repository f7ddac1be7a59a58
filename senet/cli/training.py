"""What the commands that train share: the plan and its time, one run, experiments, resuming, and what is printed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from senet.cli.output import print_json, progress, styled, table
from senet.cli.parse import Line
from senet.cli.training_options import launched
from senet.config import override, to_dict
from senet.errors import ConfigError, DataError, SenetError
from senet.experiments.change import changed, shortened
from senet.experiments.experiment import BUILT_IN, Experiment, Row
from senet.files import free_name
from senet.foreign_models import code_option
from senet.processes import first_alone, gathered, rank, world
from senet.progress import span
from senet.recipes.recipe import PARTS, Recipe
from senet.recipes.scaling import scaled
from senet.recipes.task import TASKS
from senet.runs.environment import is_continued
from senet.runs.evaluation import class_counts
from senet.runs.folder import BEST, FINAL, PAGE, PLAN, RECIPE, RUNS
from senet.runs.recipe_file import read_recipe

if TYPE_CHECKING:
    from senet.experiments.result import Difference, Result
    from senet.runs.summary import RunSummary


def folder_for(out: str, name: str) -> Path:
    """The folder that was asked for, or a free one in runs/."""
    return Path(out).expanduser() if out else free_name(Path("runs"), name)


def started(recipe: Recipe, line: Line) -> Recipe:
    """The recipe with what its weights decide: the network's function and the preparation of images."""
    if not recipe.train.weights:
        return recipe
    from senet.training.weights import with_weights

    return with_weights(recipe, line.named)


def train_one(recipe: Recipe, folder: Path, line: Line, argv: Sequence[str], *, notes: Sequence[str] = ()) -> int:
    """Train one network and print what came out.

    Args:
        recipe: What is trained.
        folder: New, or empty.
        line: The command line, with the options of `run_options` and `device_options`.
        argv: The same as it was typed.
        notes: Lines to print before.
    """
    recipe = placed(recipe)
    check_budget(line, line["devices"] * line["nodes"])
    if not line["plan"]:
        # All processes must have the same folder.
        out = () if line["out"] else ("--out", str(folder))
        status = launched(["train", *argv, *out], line, recipe.train.device)
        if status is not None:
            return status
    if line["plan"] or line["budget"]:
        alone = Experiment(
            name=recipe.name,
            title=f"one run in {folder}",
            rows=(Row(name=recipe.name, recipe=recipe),),
            seeds=(recipe.train.seed,),
            budget=line["budget"],
        )
        with progress(line["json"]):
            (alone,) = planned([alone], folder, line, notes=notes)
        recipe, notes = alone.trained[recipe.name], ()
        if line["plan"]:
            return 0
    return _train_one(recipe, folder, as_json=line["json"], notes=notes)


def _train_one(recipe: Recipe, folder: Path, *, as_json: bool, resumed: bool = False, notes: Sequence[str] = ()) -> int:
    from senet.experiments.queue import open_images
    from senet.report.folder import write_page
    from senet.training.devices import together
    from senet.training.run import device_of, train

    with progress(as_json), together(recipe.train.device):
        is_first = not rank()
        print("\n".join(notes), end="\n" if notes else "")
        # Each process may have found another name that is free.
        folder = gathered(folder)[0]
        if gathered(is_continued(folder))[0]:
            recipe, resumed = read_recipe(folder), True
        device_of(recipe)
        with first_alone():
            data = open_images(recipe.data, recipe.train.seed)
        announce(recipe.name, recipe)
        parts = [f"{len(split):,} {PARTS[name]}" for name, split in data.parts.items()]
        numbers = data.train.targets.bincount(minlength=len(data.classes)).tolist()
        counts = class_counts(dict(zip(data.classes, numbers, strict=True)))
        print(f"{data.source}: {', '.join(parts)}; training images: {counts}", *data.notes, sep="\n")
        summary = train(recipe, data, folder, resume=resumed).summary
    if not is_first:
        return 0
    with progress(as_json):
        details_of([folder])
        report = write_page(folder)
        if not as_json:
            print_summary(summary, folder)
    if as_json:
        print_json(to_dict(summary) | {"folder": str(folder), "report": str(report)})
    return 0


def train_experiments(
    experiments: Sequence[Experiment],
    folder: Path,
    line: Line,
    *,
    originals: Mapping[str, Experiment] | None = None,
    notes: Sequence[str] = (),
) -> int:
    """Print the plan and its time, train, and print the results.

    Args:
        experiments: What is trained.
        folder: New, or one to which they are added.
        line: The command line, with the options of `run_options` and `device_options`.
        originals: Name -> the paper's experiment.
        notes: Lines for the plan.

    Returns:
        The exit status: 1 where a run failed.
    """
    experiments = [changed(experiment, placed) for experiment in experiments]
    devices = line["devices"]
    check_budget(line, devices)
    if not line["plan"]:
        # Before the time of a step is measured.
        from senet.training.launch import check_one_process

        check_one_process()
        if devices > 1:
            from senet.training.devices import check_devices

            check_devices(devices, line.config.train.device)
    notes = [*notes, *layouts(experiments, devices)]
    with progress(line["json"]):
        experiments = planned(experiments, folder, line, notes=notes)
    from senet.experiments.plan import added_to
    from senet.experiments.runner import run

    if line["plan"]:
        added_to(folder, experiments, originals=originals)
        if line["json"]:
            print_json({"folder": str(folder), "experiments": [to_dict(e) for e in experiments]})
        return 0
    with progress(line["json"]):
        say = counting(folder, experiments)
        jobs = line["jobs"] or default_jobs(devices)
        results = run(experiments, folder, jobs=jobs, devices=devices, originals=originals, announce=announce, say=say)
    return _print_results(results, folder, as_json=line["json"])


def check_budget(line: Line, devices: int) -> None:
    """Raise ConfigError for a budget on several devices, where no time of a step is measured."""
    if devices > 1 and line["budget"]:
        raise ConfigError("--budget: is for one device; choose --epochs")


def placed(recipe: Recipe) -> Recipe:
    """The recipe with whole paths, so that its images and weights are found from any folder."""
    if os.path.exists(weights := os.path.abspath(os.path.expanduser(recipe.train.weights))) and recipe.train.weights:
        recipe = replace(recipe, train=replace(recipe.train, weights=weights))
    d = recipe.data
    if d.name in BUILT_IN:
        return replace(recipe, data=replace(d, root=os.path.abspath(os.path.expanduser(d.root))))
    folder = os.path.abspath(os.path.expanduser(d.name))
    return replace(recipe, data=replace(d, name=folder)) if os.path.isdir(folder) else recipe


def resume(
    folder: Path,
    *,
    as_json: bool,
    started: Callable[[str], int | None] = lambda device: None,
    images: str = "",
    changes: Mapping[str, str] = MappingProxyType({}),
    seeds: int = 0,
    jobs: int = 0,
    devices: int = 0,
    nodes: int = 0,
) -> int:
    """Continue the run or the experiments in a folder.

    Args:
        folder: What `--resume` names.
        as_json: Print JSON.
        started: Starts the processes that continue a run on a device, as `launched`; by default none.
        images: Folder that the images are in now; "" where they are still where they were.
        changes: Field of a run's recipe -> its text from now on.
        seeds: Number of seeds from now on; 0 for those of the plan.
        jobs: Runs side by side; 0 for as many as before.
        devices: Processes that continue a run; 0 for one, or for as many as each run of the plan had.
        nodes: Machines that continue one run; 0 where none are asked for.

    Raises:
        ConfigError: `seeds` or `jobs` where there is one run, `nodes` or `changes` where there are several.
        RunError: It is neither the folder of a run nor of an experiment, or its run is finished.
    """
    from senet.experiments.plan import read_plan
    from senet.experiments.runner import moved, resume, with_seeds

    if (folder / RECIPE).is_file():
        for name, value in (("seeds", seeds), ("jobs", jobs)):
            if value:
                raise ConfigError(f"--{name}: has no effect, {folder} is the folder of one run")
        recipe = read_recipe(folder)
        recipe = override(recipe, *(f"{field}={value}" for field, value in changes.items()))
        if (status := started(recipe.train.device)) is not None:
            return status
        return _train_one(moved(recipe, images) if images else recipe, folder, as_json=as_json, resumed=True)
    for name in (*(["nodes"] if nodes else []), *changes):
        raise ConfigError(f"--{name}: is for one run, and {folder} is the folder of an experiment")
    with progress(as_json):
        plan = with_seeds(read_plan(folder), seeds)
        for note in layouts(plan.experiments, devices or plan.devices):
            print(note)
        say = counting(folder, plan.experiments)
        results = resume(folder, images=images, seeds=seeds, jobs=jobs, devices=devices, announce=announce, say=say)
    return _print_results(results, folder, as_json=as_json)


def _print_results(results: Sequence[Result], folder: Path, *, as_json: bool) -> int:
    from senet.report.folder import write_page

    with progress(as_json):
        for result in results:
            if (gates := folder / f"{result.name}-gates").is_dir():
                write_page(gates)
        write_run_pages(results, folder)
        report = write_page(folder)
    if as_json:
        found = [to_dict(result) for result in results]
        print_json({"folder": str(folder), "report": str(report), "experiments": found})
    else:
        for result in results:
            print_result(result, folder)
        last = next((name for name in reversed(results[-1].rows[-1].runs)), "")
        code = code_option(results[-1].rows[-1].name)
        print(
            f"\nreport    {report}\n"
            f"tables    {folder}/{results[0].name}.md, .png\n"
            f"evaluate  senet evaluate {folder}/runs/{last}{code}\n"
            f"predict   senet predict {folder}/runs/{last} IMAGE...{code}\n"
            f"again     senet train --resume {folder}   (more seeds: --seeds {len(results[0].seeds) + 1})"
        )
    return 1 if any(result.failed for result in results) else 0


def write_run_pages(results: Sequence[Result], folder: Path) -> None:
    """Write the page of each finished run that has none yet; with details, of the first seed of each row."""
    from senet.report.folder import write_page
    from senet.runs.summary import read_summary

    rows = [row for result in results for row in result.rows]
    names = dict.fromkeys(name for row in rows for name in row.runs)
    new = [
        name
        for name in names
        if not (folder / RUNS / name / PAGE).is_file() and read_summary(folder / RUNS / name) is not None
    ]
    first = {row.runs[0] for row in rows if row.runs}
    details_of([folder / RUNS / name for name in new if name in first])
    for name in new:
        write_page(folder / RUNS / name)


def details_of(folders: Sequence[Path]) -> None:
    """Measure what the pages of runs show beside curves; where that fails, the pages lack it and a line says why."""
    from senet.report.details import measure_details

    for folder in folders:
        try:
            measure_details(folder, device=read_recipe(folder).train.device, progress=True)
        except SenetError as error:
            print(f"no mistakes and gates on the page of {folder.name}: {error}")


def planned(
    experiments: Sequence[Experiment], folder: Path, line: Line, *, notes: Sequence[str] = ()
) -> list[Experiment]:
    """Print what is to be trained, then how long it takes; with a budget, choose the epochs.

    With --plan, the rows are printed before torch is imported.

    Args:
        experiments: What is trained.
        folder: Where.
        line: The command line, with the options of `run_options`.
        notes: Lines for the plan.

    Raises:
        ConfigError: Not even one epoch fits into the budget, or the epochs are given too.
        DataError: The images are absent, and it is not the plan alone that is asked for.
    """
    from senet.experiments.budget import as_before, read_span, within

    if line["budget"] and "train.epochs" in line.named:
        raise ConfigError("--budget: chooses the epochs; --epochs beside it would have no effect")
    budget = read_span(line["budget"]) if line["budget"] else 0.0

    def shorten(recipe: Recipe, epochs: int) -> Recipe:
        # A budget changes no field that the command line sets.
        shorter = shortened(recipe, epochs)
        return override(shorter, *(text for text in line.assignments if not text.startswith("model.")))

    from senet.experiments.plan import Plan, read_plan

    clock, jobs, devices = None, line["jobs"] or 0, line["devices"]
    if not line["plan"]:
        # An error that would stop the runs is printed instead of the plan, not after it.
        from senet.experiments.estimate import EpochClock

        jobs = jobs or default_jobs(devices)
        clock = EpochClock([recipe for e in experiments for recipe in e.trained.values()], jobs, devices)
    for experiment in experiments:
        print_plan(experiment, " at most" if budget else "")
    runs = Plan(experiments=tuple(experiments)).runs
    print(f"\n{len(runs)} run{'s' if len(runs) > 1 else ''} in {folder}", flush=True)
    for note in notes:
        print(note, flush=True)
    if budget and (folder / PLAN).is_file():
        before = as_before(experiments, read_plan(folder), shorten)
        if before is not None:
            print("with the epochs that the budget chose before")
            experiments, budget = before, 0.0

    from senet.experiments.estimate import EpochClock, time_left

    jobs = jobs or default_jobs(devices)
    try:
        clock = clock or EpochClock([recipe for e in experiments for recipe in e.trained.values()], jobs, devices)
    except DataError as error:
        if budget:
            raise
        print(f"no estimate: {error}")
        return list(experiments)
    if budget:
        experiments = within(experiments, clock, budget, jobs, shorten)
    if line["budget"]:
        chosen = {name: epochs(recipe.train.epochs) for e in experiments for name, recipe in e.trained.items()}
        some, *others = dict.fromkeys(chosen.values())
        each = ", ".join(f"{name} {length}" for name, length in chosen.items()) if others else f"{some} a run"
        print(f"in {line['budget']}: {each}")
    lines = dict.fromkeys(line for counts in clock.counts.values() for line in (*counts.lines, counts.words))
    print("\n".join([*lines, *time_left(experiments, folder, clock)]), flush=True)
    return list(experiments)


def counting(folder: Path, experiments: Sequence[Experiment]) -> Callable[[str, str], None]:
    """A function that prints what became of each run, and how many of all are finished."""
    from senet.experiments.plan import Plan
    from senet.experiments.runner import unfinished

    runs = Plan(experiments=tuple(experiments)).runs
    finished = len(runs) - len(unfinished(folder, runs))
    if finished == len(runs):
        print(f"{folder}: finished already; nothing to train")

    began, before = time.monotonic(), finished

    def say(name: str, outcome: str) -> None:
        nonlocal finished
        finished += outcome == "done"
        left = ""
        if before < finished < len(runs):
            each = (time.monotonic() - began) / (finished - before)
            left = f"; about {span(each * (len(runs) - finished))} left for the others"
        print(f"[{finished} of {len(runs)}] {name}: {outcome}{left}", flush=True)

    return say


def default_jobs(devices: int = 1) -> int:
    """Runs of so many devices side by side where none are asked for: as many as the GPUs are enough for, or one."""
    import torch

    return max(1, torch.cuda.device_count() // devices)


def rate_note(base: Recipe, recipe: Recipe) -> list[str]:
    """What SGD's learning rate would be in proportion to another batch, as lines; it is not changed unasked."""
    if recipe.optim.kind != "sgd":
        return []
    wanted = scaled(base, recipe.data.batch_size, recipe.train.accumulate)[0].optim.lr
    if wanted == recipe.optim.lr:
        return []
    return [
        f"note: the learning rate stays {recipe.optim.lr:g}; in proportion to the batch it would be --lr {wanted:g} "
        "(arXiv:1706.02677)"
    ]


def announce(name: str, recipe: Recipe) -> None:
    """Print what is trained next."""
    t = recipe.train
    unit = f"{recipe.model.se.kind} unit" if recipe.model.se else "no attention unit"
    length = f"{epochs(t.epochs)}, batch {recipe.data.batch_size}, seed {t.seed}"
    print(f"\n{name} on {recipe.data.name}, {unit}: {length}{layout(recipe)}", flush=True)


def layout(recipe: Recipe, count: int = 0) -> str:
    """How processes share a batch, as more lines; "" for one.

    Args:
        recipe: What is trained.
        count: Of processes; 0 for those that are connected.
    """
    if (count := count or world()) == 1:
        return ""
    batch, rest = divmod(recipe.data.batch_size, count)
    norm = "all of them" if recipe.train.sync_batch_norm else "those of each process; of all with --sync-batch-norm"
    images = f"{batch}{f' or {batch + 1}' if rest else ''} images each"
    return (
        f"\n{count} processes share each batch of {recipe.data.batch_size}, {images}; the learning rate stays "
        f"{recipe.optim.lr:g}; batch norm's statistics are of {norm}"
    )


def layouts(experiments: Sequence[Experiment], count: int) -> list[str]:
    """How so many processes share a batch of experiments, as lines; none for one process."""
    recipes = [recipe for experiment in experiments for recipe in experiment.trained.values()]
    return [line.strip() for line in dict.fromkeys(layout(recipe, count) for recipe in recipes) if line]


def epochs(count: int) -> str:
    """A number of epochs in words."""
    return f"{count} epoch{'s' if count > 1 else ''}"


def print_plan(experiment: Experiment, length: str = "") -> None:
    """Print an experiment's rows and how it differs from the paper; `length`: words after the number of epochs."""
    print(f"\n{experiment.name}: {experiment.title}")
    width = max(map(len, experiment.trained))
    for row in experiment.rows:
        if row.recipe is None:
            continue
        r = row.recipe
        unit = r.model.se.kind if r.model.se else "plain"
        printed = ", ".join(f"{v:.2f}" for v in row.printed.values())
        print(
            f"  {row.name:<{width}}  {r.name} ({unit}) on {r.data.label}, {epochs(r.train.epochs)}{length}, "
            f"batch {r.data.batch_size}, lr {r.optim.lr:g}{f'   the paper: {printed} %' if printed else ''}"
        )
    _print_differs(experiment.differs)


def _print_differs(lines: Sequence[str]) -> None:
    if lines:
        print("differs from the paper:\n" + "\n".join(f"  {line}" for line in lines))


def print_summary(summary: RunSummary, folder: Path) -> None:
    """Print one run's result, and what can be done with it."""
    s, kept = summary, FINAL if summary.best_epoch is None else BEST
    code = code_option(s.model)
    task = TASKS[s.task]
    best = "test images choose no epoch, so the last is kept"
    if s.best_epoch and s.best is not None:
        best = f"{'highest' if task.higher else 'lowest'} validation {task.word} {s.best:.2f} % in epoch {s.best_epoch}"
    figure = s.measured[task.main]
    shown = f"{task.word} {figure:.2f} %" if figure is not None else f"no {task.word}: nothing is annotated"
    things = "objects" if s.task == "detection" else "images"
    when = f"after {epochs(s.epochs)}" if s.epoch == s.epochs else f"with the weights of epoch {s.epoch} of {s.epochs}"
    print(
        f"\n{s.model}: {PARTS[s.part]} {shown} {when} ({s.eval_images:,} images); {best}\n"
        f"classes     {class_counts(s.class_images, things.removesuffix('s'))}\n"
        + "".join(f"note        {note}\n" for note in s.notes)
        + f"report      {folder}/report.html\n"
        f"checkpoint  {folder}/{kept}\n"
        f"evaluate    senet evaluate {folder}{code}\n"
        f"predict     senet predict {folder} IMAGE...{code}"
    )


def _step_time(d: Difference) -> str:
    return f"{d.step_ratio:.2f} x{' (within noise)' if d.is_step_noise else ''}"


def print_result(result: Result, folder: Path) -> None:
    """Print a result: errors and costs of the rows, beside the paper's, and the paired differences."""
    print(styled(f"\n{result.name}: {result.title}", "bold"))
    for name, why in result.failed.items():
        print(f"failed: {name}: {why}")
    if not result.finished:
        print("no run has finished")
        return
    if result.sentence and not result.has_printed:
        print(styled(result.sentence, "green" if result.difference and result.difference.is_shown else "bold"))
    print(f"{result.where}\n")
    paper, error = ["the paper's"] if result.has_printed else [], f"{PARTS[result.part]} {result.of.word}, %"
    lines: list[tuple[str, ...]] = [
        ("row", error, *paper, "n", "parameters", "multiply-adds", "ms per step", "training, s")
    ]
    for row in result.rows:
        e = row.errors[result.main]
        printed = [f"{e.printed:.2f}" if e.printed is not None else ""] if paper else []
        costs = (
            ("", "", "", "")
            if row.params is None or row.macs is None
            else (f"{row.params:,}", f"{row.macs / 1e6:,.2f} M", f"{row.step_ms:.1f}", f"{row.train_seconds:.1f}")
        )
        lines.append((row.name, e.text, *printed, str(row.finished or ""), *costs))
    print(table(lines))
    differences = [d for d in result.differences if d.measure == result.main]
    if differences:
        lines = [("difference", "points", "95 % interval", "n", "step time", *paper, "")]
        for d in differences:
            printed = ["" if d.printed is None else f"{d.printed:+.2f}"] if paper else []
            interval = d.interval or "-"
            lines.append((d.label, f"{d.mean:+.2f}", interval, str(d.seeds), _step_time(d), *printed, d.verdict))
        print(f"\n{table(lines)}")
        if all(d.low is None for d in differences):
            print(f"one seed, so no interval; for one: senet train --resume {folder} --seeds 3")
    _print_differs(result.differs)
