"""Several networks trained alike: the same recipe, data, order and augmentation, and equal common initial weights.

What differs is the network's table; for an SE network and its plain twin that is one field.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from senet.errors import ConfigError, RunError
from senet.files import new_folder
from senet.recipes.recipe import Recipe
from senet.runs import folder as run
from senet.runs.recipe_file import read_recipe, write_recipe_file
from senet.training.plots import plot_curves
from senet.training.queue import OpenData, Say, run_all

PLAN, REPORT = "comparison.json", "report.json"


@dataclass(frozen=True)
class Difference:
    """A network's test error minus the first network's, over seeds: mean, deviation and interval in percentage points.

    low, high: the 95 % confidence interval of the mean by Student's t over the paired differences; NaN for one seed.
    """

    model: str
    minus: str
    seeds: int
    mean: float
    deviation: float
    low: float
    high: float
    step_ratio: float


def paired_difference(
    model: str, minus: str, errors: list[float], base: list[float], ratios: list[float]
) -> Difference:
    """The paired comparison of two networks' errors, seed by seed (percent); `ratios`: of their times per step.

    >>> d = paired_difference("b", "a", [1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [1.0, 1.1, 1.2])
    >>> d.mean, d.low, d.high, d.step_ratio
    (-1.0, -1.0, -1.0, 1.1)
    """
    from scipy.stats import t

    n = len(errors)
    gaps = [a - b for a, b in zip(errors, base, strict=True)]
    mean = statistics.fmean(gaps)
    deviation = statistics.stdev(gaps) if n > 1 else math.nan
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n) if n > 1 else math.nan
    return Difference(model, minus, n, mean, deviation, mean - half, mean + half, statistics.median(ratios))


def plan(recipes: list[Recipe], seeds: int) -> dict[str, Recipe]:
    """Run name -> recipe, one for each network and seed; the seeds count up from the recipes' own.

    Raises ConfigError for fewer than two networks, two of one name, no seed, or differing recipes.
    """
    names = [r.name for r in recipes]
    if len(recipes) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"models: {names!r} must be two or more networks of different names")
    if seeds < 1:
        raise ConfigError(f"seeds: {seeds!r} is too small; expected: 1 or more")
    for other in recipes[1:]:
        if replace(other, name=names[0], model=recipes[0].model) != recipes[0]:
            raise ConfigError(f"{other.name} and {names[0]} would be trained by different recipes")
    first = recipes[0].train.seed
    runs = {}
    for seed in range(first, first + seeds):
        for r in recipes:
            key = r.name if seeds == 1 else f"{r.name}-seed{seed}"
            runs[key] = replace(r, train=replace(r.train, seed=seed))
    return runs


def compare(
    recipes: list[Recipe],
    seeds: int,
    open_data: OpenData,
    folder: Path,
    *,
    jobs: int = 1,
    resume: bool = False,
    announce: Callable[[str, Recipe], None] | None = None,
    say: Say = lambda name, outcome: None,
) -> dict[str, Any]:
    """Train every network with every seed, each in a run folder inside `folder`, and report.

    open_data: opens the images for a recipe and a seed.
    jobs: runs side by side.
    resume: go on with an interrupted comparison: finished runs are kept, the interrupted one continues exactly.
    announce: called with each run's name and recipe before this process trains it.
    say: told of each run that ends: its name, and "done" or what failed.

    Returns report.json: `models` (name, runs, params, macs, errors per seed, mean, deviation, step_ms), `differences`.
    Raises what `plan` raises, RunError where a run fails (side by side, when the others have ended), and Interrupted
    after a signal, when all that ran has been saved.
    """
    runs = plan(recipes, seeds)
    if not resume:
        new_folder(folder)
        for r in recipes:
            (folder / "recipes").mkdir(exist_ok=True)
            write_recipe_file(folder / "recipes" / f"{r.name}.yaml", r)
    run.write_json(folder / PLAN, {"models": [r.name for r in recipes], "seeds": seeds, "jobs": jobs})

    def ended(name: str, outcome: str) -> None:
        say(name, outcome)
        if jobs == 1 and outcome != "done":
            raise RunError(f"{name}: {outcome}")

    done = run_all(runs, open_data, folder, jobs=jobs, announce=announce, say=ended)
    for name, why in done.failed.items():
        raise RunError(f"{name}: {why}")
    # In the order of the plan, whichever ended first.
    summaries = {name: done.summaries[name] for name in runs}
    report = build_report([r.name for r in recipes], summaries)
    run.write_json(folder / REPORT, report)
    histories = {
        r.name: [run.read_metrics(folder / k) for k, s in summaries.items() if s["model"] == r.name] for r in recipes
    }
    plot_curves(folder / run.CURVES, histories)
    return report


def read_plan(folder: Path) -> tuple[list[Recipe], int]:
    """The recipes and the number of seeds of a comparison's folder; RunError where it is not one."""
    try:
        planned = json.loads((folder / PLAN).read_text())
        return [read_recipe(folder / "recipes" / f"{name}.yaml") for name in planned["models"]], planned["seeds"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder}: not the folder of a comparison: {error}") from error


def read_jobs(folder: Path) -> int:
    """How many runs side by side a comparison was last trained with."""
    return run.read_json(folder / PLAN).get("jobs", 1)


def build_report(names: list[str], summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """From the runs' summaries to the comparison's report; errors are of the last epoch, not of the best one."""
    by_name = {name: [s for s in summaries.values() if s["model"] == name] for name in names}
    models = []
    for name, runs in by_name.items():
        errors = [s["top1_error"] for s in runs]
        models.append(
            {
                "model": name,
                "runs": [key for key, s in summaries.items() if s["model"] == name],
                "params": runs[0]["params"],
                "macs": runs[0]["macs"],
                "errors": errors,
                "error_mean": statistics.fmean(errors),
                "error_deviation": statistics.stdev(errors) if len(errors) > 1 else None,
                "best_errors": [s["best_top1_error"] for s in runs],
                "step_ms": statistics.median(s["step_ms"] for s in runs),
                "train_seconds": statistics.fmean(s["train_seconds"] for s in runs),
            }
        )
    base = by_name[names[0]]
    differences = []
    for name in names[1:]:
        other = by_name[name]
        ratios = [a["step_ms"] / b["step_ms"] for a, b in zip(other, base, strict=True)]
        difference = paired_difference(
            name, names[0], [s["top1_error"] for s in other], [s["top1_error"] for s in base], ratios
        )
        values = asdict(difference)
        differences.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})
    first = base[0]
    return {
        "data": first["data"],
        "epochs": first["epochs"],
        "seeds": len(base),
        "train_images": first["train_images"],
        "test_images": first["test_images"],
        "models": models,
        "differences": differences,
    }
