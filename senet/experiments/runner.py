"""The one runner: trains what an experiment plans, in a folder, and leaves its result there.

plan.json        the experiments, complete: resuming needs nothing else
runs/NAME/       a run folder each; rows of equal recipes share one
result.json      the results of all experiments of the folder
NAME.md, .png    one experiment's result as text and as a picture; NAME-curves.png where there are few rows
NAME-gates/      Figures 6 and 7, for an experiment that shows gates
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from senet.analysis.analyze import analyze
from senet.data import count_data, open_part
from senet.data.sources import check_trained_on
from senet.device import pick_device
from senet.errors import ConfigError, RunError
from senet.evaluation.accuracy import evaluate
from senet.experiments.experiment import BUILT_IN, Experiment
from senet.experiments.markdown import markdown
from senet.experiments.plan import Plan, added_to, read_plan, write_plan
from senet.experiments.plots import plot_result
from senet.experiments.queue import Announce, Done, OpenData, Say, open_images, run_all
from senet.experiments.result import Result, build_result, write_results
from senet.files import LOCK, held, write_text
from senet.recipes.recipe import DataRecipe, Recipe, TrainedOn
from senet.runs.checkpoint import load
from senet.runs.crops import CropErrors, read_crops, write_crops
from senet.runs.folder import BEST, LAST, PLAN, RUNS
from senet.runs.metrics import read_metrics
from senet.runs.recipe_file import read_recipe
from senet.runs.summary import read_summary
from senet.training.devices import check_devices
from senet.training.launch import check_one_process
from senet.training.plots import plot_curves
from senet.weights import files
from senet.weights.ilsvrc import named

FIGURE_CLASSES = ("goldfish", "pug", "airliner", "cliff")
"""The classes of Figure 6, which the paper calls goldfish, pug, plane and cliff."""

FEW_ROWS = 4
"""Rows up to which their curves are drawn."""


def run(
    experiments: Sequence[Experiment],
    folder: Path,
    *,
    jobs: int = 1,
    devices: int = 1,
    originals: Mapping[str, Experiment] | None = None,
    images: str = "",
    open_data: OpenData = open_images,
    announce: Announce | None = None,
    say: Say = lambda name, outcome: None,
) -> tuple[Result, ...]:
    """Train the runs of experiments that are not finished yet, and write the results.

    A run that fails is in the results, and the others continue; called again, it is tried again.

    Args:
        experiments: What to train.
        folder: New or empty, or an experiment's: then rows, seeds and experiments are added, finished runs are kept,
            and interrupted ones resume.
        jobs: Runs side by side.
        devices: Processes that train each run together.
        originals: Name -> the paper's experiment; see `added_to`.
        images: Folder that the images are in now, kept for the next time; "" for that of the plan.
        open_data: Opens the images.
        announce: Called before each run, where they are trained one after the other.
        say: Called after each run.

    Returns:
        The results of these experiments; those of all experiments in the folder are in result.json.

    Raises:
        RunError: The folder holds something else or another experiment, or is in use; or a launcher started several
            processes.
        DataError: The images are absent, or `images` has others than the finished runs were trained on.
        ConfigError: This machine has not so many GPUs.
        Interrupted: A signal came; all that ran is saved.
    """
    check_one_process()
    for name in {recipe.train.device for e in experiments for recipe in e.trained.values()} if devices > 1 else ():
        check_devices(devices, name)
    with held(folder):
        if any(f.name != LOCK for f in folder.iterdir()) and not (folder / PLAN).is_file():
            raise RunError(f"{folder}: not empty, and not the folder of an experiment; name another with --out")
        plan = added_to(folder, experiments, jobs, devices, originals)
        runs = Plan(experiments=tuple(experiments)).runs
        if images := images or plan.images:
            runs = {name: moved(recipe, images) for name, recipe in runs.items()}
            check_images(folder, runs)
            plan = replace(plan, images=os.path.abspath(os.path.expanduser(images)))
        write_plan(folder, plan)
        if open_data is open_images:
            fetch([recipe.data for recipe in unfinished(folder, runs).values()])
        done = run_all(
            runs,
            folder / RUNS,
            open_data=open_data,
            jobs=jobs,
            devices=devices,
            announce=announce,
            say=say,
            part_of=folder,
        )
        results = write_all(folder, plan, done)
        for experiment in experiments:
            if experiment.shows == "gates":
                draw_gates(folder, experiment, done)
    names = {e.name for e in experiments}
    return tuple(result for result in results if result.name in names)


def resume(
    folder: Path,
    *,
    images: str = "",
    seeds: int = 0,
    jobs: int = 0,
    devices: int = 0,
    open_data: OpenData = open_images,
    announce: Announce | None = None,
    say: Say = lambda name, outcome: None,
) -> tuple[Result, ...]:
    """Continue the experiments of a folder.

    Args:
        folder: An experiment's.
        images: See `run`.
        seeds: Number of seeds from now on, counted from the first one; 0 for those of the plan.
        jobs: Runs side by side; 0 for as many as before.
        devices: Processes that train each run together; 0 for as many as before.
        open_data: See `run`; so the others.

    Returns:
        The results of all experiments of the folder.

    Raises:
        RunError: It is not the folder of an experiment. Also what `run` raises.
    """
    plan = read_plan(folder)
    return run(
        with_seeds(plan, seeds).experiments,
        folder,
        jobs=jobs or plan.jobs,
        devices=devices or plan.devices,
        images=images,
        open_data=open_data,
        announce=announce,
        say=say,
    )


def moved(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with its images in another folder; ConfigError where they are in none."""
    if recipe.data.name in BUILT_IN:
        raise ConfigError(f"--data: has no effect, the images are {recipe.data.name!r}, which is not a folder")
    return replace(recipe, data=replace(recipe.data, name=os.path.abspath(os.path.expanduser(folder))))


def check_images(folder: Path, runs: Mapping[str, Recipe]) -> None:
    """Raise DataError where the images of runs are not those that a finished one of them was trained on."""
    for name, recipe in runs.items():
        if read_summary(folder / RUNS / name) is not None:
            about = files.read(reported(folder / RUNS / name)).header
            planned = read_recipe(folder / RUNS / name)
            check_trained_on(TrainedOn(planned.data.name, about.images if about else ""), recipe.data)
            return


def with_seeds(plan: Plan, seeds: int) -> Plan:
    """The plan with `seeds` seeds, counted from the first, and those that it has; 0 for those that it has."""

    def more(e: Experiment) -> Experiment:
        return replace(e, seeds=tuple(sorted({*e.seeds, *range(e.seeds[0], e.seeds[0] + seeds)})))

    return replace(plan, experiments=tuple(map(more, plan.experiments)))


def unfinished(folder: Path, runs: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The runs that have no summary in an experiment's folder yet."""
    return {name: recipe for name, recipe in runs.items() if read_summary(folder / RUNS / name) is None}


def write_all(folder: Path, plan: Plan, done: Done) -> tuple[Result, ...]:
    """Write and return the result of each experiment of a folder, as far as it has come."""
    summaries = dict(done.summaries)
    for name in plan.runs:
        if name not in summaries and (summary := read_summary(folder / RUNS / name)) is not None:
            summaries[name] = summary
    results = []
    for experiment in plan.experiments:
        at_crops = {
            name: crop_errors(folder / RUNS / name, experiment.crops)
            for name in experiment.runs
            if experiment.crops and name in summaries
        }
        result = build_result(experiment, summaries, done.failed, at_crops)
        write_text(folder / f"{result.name}.md", markdown(result))
        plot_result(folder / f"{result.name}.png", result)
        histories = {
            row.name: [read_metrics(folder / RUNS / name) for name in row.runs if name in summaries]
            for row in result.rows
            if row.finished
        }
        if histories and (experiment.shows == "curves" or len(histories) <= FEW_ROWS):
            plot_curves(folder / f"{result.name}-curves.png", histories)
        results.append(result)
    write_results(folder, results)
    return tuple(results)


def fetch(recipes: Sequence[DataRecipe]) -> None:
    """Check that images are there, and download what is absent, once and before several processes would.

    Raises:
        DataError: A folder of images is absent, or a download fails.
    """
    for recipe in dict.fromkeys(recipes):
        count_data(recipe)
    for name, root in dict.fromkeys((r.name, r.root) for r in recipes if r.name in ("cifar10", "cifar100")):
        open_images(DataRecipe(name=name, root=root), 0)


def crop_errors(folder: Path, sizes: Sequence[int]) -> Mapping[str, float]:
    """A run's errors with crops of these sizes, from images whose shorter side is that size too; measured once."""
    found = dict((read_crops(folder) or CropErrors()).errors)
    for size in sizes:
        if f"top1_error_{size}" in found:
            continue
        checkpoint = load(reported(folder))
        recipe = checkpoint.recipe
        part = open_part(replace(recipe.data, image_size=size, resize=size), trained_on=checkpoint.trained_on)
        device = pick_device(recipe.train.device, field="train.device")
        measured = evaluate(checkpoint.model, part.split, batch_size=recipe.data.eval_batch_size, device=device)
        found |= {f"top1_error_{size}": measured.top1_error, f"top5_error_{size}": measured.top5_error}
        write_crops(folder, CropErrors(errors=found))
    return found


def reported(folder: Path) -> Path:
    """The checkpoint of a finished run that its errors are of."""
    summary = read_summary(folder)
    is_of_best = summary is not None and summary.part == "test" and summary.best_epoch is not None
    return folder / (BEST if is_of_best else LAST)


def draw_gates(folder: Path, experiment: Experiment, done: Done) -> None:
    """Draw Figures 6 and 7 for the first finished run, of the paper's classes where the images have them."""
    name = next((name for name in experiment.runs if name in done.summaries), None)
    if name is None:
        return
    checkpoint = load(reported(folder / RUNS / name))
    recipe = checkpoint.recipe
    words = named(checkpoint.classes)
    analyze(
        checkpoint.model,
        checkpoint.classes,
        open_part(recipe.data, trained_on=checkpoint.trained_on),
        recipe.data,
        gates_folder(folder, experiment),
        device=pick_device(recipe.train.device, field="train.device"),
        chosen=[words.index(word) for word in FIGURE_CLASSES if word in words],
        name=recipe.name,
    )


def gates_folder(folder: Path, experiment: Experiment) -> Path:
    """Where the gates of an experiment are drawn."""
    return folder / f"{experiment.name}-gates"
