"""`senet reproduce`: a table or figure of the paper, run on the data and in the time that there are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from senet.cli import analyze, running, show
from senet.cli.output import table
from senet.cli.parse import Line, Parser, value_at
from senet.cli.training_options import COMMON, resume_folder
from senet.errors import ConfigError, DataError, RunError
from senet.files import LOCK, held
from senet.paper import plan as plans
from senet.paper.plan import Plan
from senet.paper.registry import GROUPS, get_targets, targets
from senet.paper.target import Target
from senet.recipes.effects import check_effects
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.recipes.scaling import scaled

DESCRIPTION = """Run a table or figure of the paper: all its rows as fair twins, over several seeds, beside the paper's
own figures.

TARGETs: {targets}.
Without --data, --epochs and the like it is the paper's experiment, whole. On other images, in fewer epochs or at
another size it is a smaller experiment of the same kind, and the result says what differs. --budget 2h chooses the
epochs. Before anything is trained the plan is printed with the time that it will take; --plan stops there. The folder
holds all: called again, finished runs are kept, interrupted ones go on exactly where they were, and seeds, rows or
targets are added; --resume FOLDER does so too, and needs no other options but --seeds and --jobs to change them. Fields
of data, optim, schedule and train can be set as in `senet train`; with --batch-size or --accumulate the learning rate
is scaled in proportion, unless it is set too."""

EXAMPLES = (
    "senet reproduce table4 --plan",
    "senet reproduce table4 --rows SE-ResNet-110 --budget 2h",
    "senet reproduce ablations --data cifar10 --epochs 10",
)

RUNS = "runs"
"""The folder of the runs in a reproduction's."""

Shorten = Callable[[Recipe, int], Recipe]
"""The recipe in so many epochs."""

FIGURE_CLASSES = ("goldfish", "pug", "airliner", "cliff")
"""Of Figure 6: by the paper's words goldfish, pug, plane and cliff."""


@dataclass(frozen=True)
class Protocol:
    """The part of a recipe that all rows of a target share."""

    data: DataRecipe
    optim: OptimRecipe
    schedule: ScheduleRecipe
    train: TrainRecipe

    @classmethod
    def of(cls, recipe: Recipe) -> Protocol:
        """A recipe's."""
        return cls(recipe.data, recipe.optim, recipe.schedule, recipe.train)

    def into(self, recipe: Recipe) -> Recipe:
        """A recipe with it."""
        return replace(recipe, data=self.data, optim=self.optim, schedule=self.schedule, train=self.train)


def run(argv: list[str]) -> int:
    """The command."""
    parser = _parser()
    line = parser.read(argv)
    found = line.values
    if "resume" in line.given:
        folder = resume_folder(line, "seeds", "jobs")
        for name in ("seeds", "jobs"):
            if name in line.given and found[name] < 1:
                raise ConfigError(f"--{name}: {found[name]} is too small; expected: 1 or more")
        seeds_now = found["seeds"] if "seeds" in line.given else 0
        return go_on(folder, as_json=found["json"], seeds=seeds_now, jobs=found["jobs"])
    if not line.words:
        print(_listing())
        return 0
    words = tuple(line.words)
    wanted = get_targets(words)
    placed = _placed(line)
    first = next(row.recipe for row in placed[0].rows if row.recipe is not None)
    named = _named(line)
    made, rates = [], dict[str, None]()
    for target in placed:
        new, said = _set(target, named, line.named)
        made.append(plans.networked(new, found["network"]))
        rates |= said
    first_seed = line.config.train.seed
    seeds = tuple(range(first_seed, first_seed + found["seeds"]))
    if not seeds:
        raise ConfigError(f"--seeds: {found['seeds']} is too small; expected: 1 or more")
    if found["jobs"] < 0:
        raise ConfigError(f"--jobs: {found['jobs']} is too small; expected: 0 or more")
    if found["budget"] and "train.epochs" in line.named:
        raise ConfigError("--budget: chooses the epochs; --epochs beside it would have no effect")
    budget = seconds(found["budget"]) if found["budget"] else 0.0
    jobs = found["jobs"] or running.default_jobs()
    name = "-".join(words) + (f"-{show.data_label(first)}" if first.data.name != "imagenet" else "")
    folder = Path(found["out"]).expanduser() if found["out"] else Path("runs") / f"reproduce-{name}"

    def shortened(recipe: Recipe, epochs: int) -> Recipe:
        # What the line names, no shortening changes.
        return _with(plans.shortened(recipe, epochs), named)

    before = _as_before(made, folder, found["budget"], shortened) if budget else None
    with running.progress(found["json"]):
        try:
            made, estimate = _in_time(before or made, seeds, jobs, 0.0 if before else budget, folder, shortened)
        except DataError as error:
            if budget or not found["plan"]:
                raise
            estimate = [f"no estimate: {error}"]
    ready = [
        Plan(
            target=here,
            seeds=seeds,
            differs=plans.differs(paper, here),
            budget=found["budget"],
            commands=(shlex.join(["senet", "reproduce", *(word for word in argv if word != "--plan")]),),
        )
        for paper, here in zip(wanted, made, strict=True)
    ]
    notes = [*rates, *estimate, *(["with the epochs that the budget chose before"] if before else [])]
    with running.progress(found["json"]):
        _print_plan(ready, folder, notes)
    from senet.training.reproduction import add_plans, plan_dict, write_plans

    if found["plan"]:
        add_plans(folder, ready)
        if found["json"]:
            out = {"folder": str(folder), "notes": notes, "targets": [plan_dict(plan) for plan in ready]}
            print(json.dumps(out, indent=2))
        return 0
    with held(folder):
        if any(f.name != LOCK for f in folder.iterdir()) and not (folder / "plan.json").is_file():
            raise RunError(f"{folder}: not empty, and not the folder of a reproduction; name another with --out")
        write_plans(folder, ready, jobs)
        return _train(folder, ready, jobs=jobs, as_json=found["json"])


def go_on(folder: Path, *, as_json: bool, seeds: int = 0, jobs: int = 0) -> int:
    """Go on with the reproduction in a folder; `seeds`, `jobs`: other numbers of them, 0 for those that it has."""
    from senet.training.reproduction import read_jobs, read_plans, write_plans

    ready, jobs = read_plans(folder), jobs or read_jobs(folder)
    if seeds:
        ready = [replace(p, seeds=tuple(range(p.seeds[0], p.seeds[0] + seeds))) for p in ready]
    with held(folder):
        write_plans(folder, ready, jobs)
        return _train(folder, ready, jobs=jobs, as_json=as_json)


def _parser() -> Parser:
    names = ", ".join([*targets(), *GROUPS])
    description = DESCRIPTION.format(targets=names)
    parser = Parser("reproduce", "TARGET...", description, base=_shown, examples=EXAMPLES, common=COMMON)
    parser.word("TARGET", help="tables and figures of the paper", count="*")
    parser.option("network", metavar="NAME", help="plain network into which each row's unit is put")
    parser.option("rows", metavar="NAMES", help="some rows alone, by name or by network, with commas")
    parser.option("seeds", type=int, default=3, metavar="N", help="runs of each row")
    parser.option("budget", metavar="TIME", help="30m, 2h, 1d: as many epochs as fit, at most the paper's")
    parser.option("subset", type=float, default=1.0, metavar="PART", help="of the training images, class by class")
    parser.option("jobs", type=int, default=0, low=0, metavar="N", help="runs side by side; 0: one per GPU, or one")
    parser.switch("plan", help="print what would be run, and how long it would take")
    parser.option("out", metavar="FOLDER", help="by default runs/reproduce-TARGET-DATA")
    parser.switch("json", help="print the result as JSON, and progress on standard error")
    parser.option("resume", metavar="FOLDER", help="continue the reproduction in this folder")
    return parser


def _placed(line: Line) -> list[Target]:
    """The targets of the line, or the first one for help, on the images that it names."""
    data, size = line.field("data", "data.name", "name") or "", line.field("image_size", "data.image_size") or ""
    wanted = get_targets(tuple(line.words) or ("table4",))
    return [plans.placed(t, data, int(size) if size.isdigit() else 0) for t in _rows(wanted, line)]


def _shown(line: Line) -> Protocol | None:
    """The part of the first row's recipe whose fields can be set."""
    if "resume" in line.given or (not line.words and not line.fields):
        return None if line.values.get("TARGET") is not None else Protocol.of(_first(line))
    return Protocol.of(_first(line))


def _first(line: Line) -> Recipe:
    return next(row.recipe for row in _placed(line)[0].rows if row.recipe is not None)


def _rows(wanted: list[Target], line: Line) -> list[Target]:
    """The targets with the rows that `--rows` names, by their own names or their networks'."""
    given = [name.strip() for name in line["rows"].split(",") if name.strip()]
    if not given:
        return wanted
    out = []
    for target in wanted:
        of = {row.recipe.name: row.name for row in target.rows if row.recipe is not None}
        is_single = len(of) == sum(row.recipe is not None for row in target.rows)
        out.append(plans.chosen(target, [of.get(name, name) if is_single else name for name in given]))
    return out


def _set(target: Target, named: dict[str, Any], by_name: list[str]) -> tuple[Target, dict[str, None]]:
    """The target with the fields that the line names, in every row; and what was said about rates."""
    said: dict[str, None] = {}

    def change(recipe: Recipe) -> Recipe:
        if "optim.lr" not in named:
            batch = named.get("data.batch_size", recipe.data.batch_size)
            recipe, line = scaled(recipe, batch, named.get("train.accumulate", recipe.train.accumulate))
            said.update({line: None} if line else {})
        recipe = _with(plans.shortened(recipe, named.get("train.epochs", recipe.train.epochs)), named)
        check_effects(recipe, by_name)
        return recipe

    return plans.changed(target, change), said


def _named(line: Line) -> dict[str, Any]:
    """Path and value of the fields that the line names."""
    named = {path: value_at(line.config, path) for path in line.named}
    if line["subset"] != 1.0:
        if "data.train_fraction" in named:
            raise ConfigError("--subset: is --data.train_fraction by another name; give one of them")
        named["data.train_fraction"] = line["subset"]
    return named


def _with(recipe: Recipe, named: dict[str, Any]) -> Recipe:
    """A recipe with the fields that the line names, which no shortening changes."""
    here = Protocol.of(recipe)
    for section in ("data", "optim", "schedule", "train"):
        own = {path.partition(".")[2]: v for path, v in named.items() if path.startswith(f"{section}.")}
        here = replace(here, **{section: replace(getattr(here, section), **own)})
    return here.into(recipe)


def seconds(text: str) -> float:
    """A span of time such as 90s, 30m, 2h or 1d; ConfigError for another text."""
    number, unit = text[:-1], {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    try:
        value = float(number) * (unit or 0)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--budget: {text!r} is not a span of time; expected: such as 90s, 30m, 2h, 1d")
    return value


def _as_before(made: list[Target], folder: Path, budget: str, shortened: Shorten) -> list[Target] | None:
    """The targets in the epochs that the same budget chose before, for the same rows; None where it did not.

    Another measurement of the time would choose others, and nothing that is finished would count.
    """
    from senet.training.reproduction import read_plans

    there = {p.target.name: p for p in read_plans(folder)} if (folder / "plan.json").is_file() else {}
    out = []
    for target in made:
        plan = there.get(target.name)
        if plan is None or plan.budget != budget:
            return None
        epochs = {row.name: row.recipe.train.epochs for row in plan.target.rows if row.recipe is not None}
        rows = tuple(
            replace(row, recipe=shortened(row.recipe, epochs[row.name]))
            if row.recipe is not None and row.name in epochs
            else row
            for row in target.rows
        )
        runs = [{plans.key(row.recipe, 0) for row in t if row.recipe is not None} for t in (rows, plan.target.rows)]
        if not runs[0] <= runs[1]:
            return None
        out.append(replace(target, rows=rows))
    return out


def _in_time(
    made: list[Target], seeds: tuple[int, ...], jobs: int, budget: float, folder: Path, shortened: Shorten
) -> tuple[list[Target], list[str]]:
    """The targets with the epochs that fit into the budget, and in words the time of what is not finished yet."""
    import torch

    from senet.data import count_data
    from senet.training.estimate import epoch_seconds, run_seconds
    from senet.training.run import device_of

    recipes = {plans.key(r, 0): r for t in made for row in t.rows if (r := row.recipe) is not None}
    costs = epoch_seconds(recipes, count_data, jobs)
    if budget:
        part = 1.0

        def fitting(recipe: Recipe) -> int:
            return max(1, int(recipe.train.epochs * part))

        def needed() -> float:
            each = sum(run_seconds(costs[key], fitting(recipe)) for key, recipe in recipes.items())
            return each * len(seeds) / jobs

        while needed() > budget:
            if all(fitting(recipe) == 1 for recipe in recipes.values()):
                raise ConfigError(
                    f"--budget: one epoch of all rows and seeds takes about {span(needed())}; "
                    "allow more, or less to do: --rows, --seeds, --subset, --image-size"
                )
            part *= 0.99
        made = [plans.changed(t, lambda r: shortened(r, fitting(r))) for t in made]
        recipes = {key: shortened(recipe, fitting(recipe)) for key, recipe in recipes.items()}
    to_do = {
        key: sum(not (folder / RUNS / plans.key(r, seed) / "summary.json").is_file() for seed in seeds)
        for key, r in recipes.items()
    }
    finished = len(recipes) * len(seeds) - sum(to_do.values())
    if not any(to_do.values()):
        return made, ["all finished"]
    total = sum(run_seconds(costs[key], recipes[key].train.epochs) * count for key, count in to_do.items()) / jobs
    slowest = max(costs, key=lambda k: costs[k])
    device = device_of(recipes[slowest])
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    lines = [
        *([f"{finished} of them finished"] if finished else []),
        f"about {span(total)} on {where}{f', {jobs} at a time' if jobs > 1 else ''}",
        f"an epoch of {recipes[slowest].name} {span(costs[slowest])}",
    ]
    return made, lines


def span(seconds: float) -> str:
    """A time in words: "45 s", "12 min", "3.5 h", "4 days"."""
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    return f"{seconds / 86400:,.0f} days"


def _print_plan(ready: list[Plan], folder: Path, notes: list[str]) -> None:
    runs: dict[str, Recipe] = {}
    for plan in ready:
        t = plan.target
        print(f"\n{t.name}: {t.title}")
        width = max(len(row.name) for row in t.rows if row.recipe is not None)
        for row in t.rows:
            if row.recipe is None:
                continue
            r = row.recipe
            unit = f"{r.model.se.kind}" if r.model.se else "plain"
            printed = ", ".join(f"{v:.2f}" for v in row.printed.values())
            print(
                f"  {row.name:<{width}}  {r.name} ({unit}) on {show.data_label(r)}, {show.epochs(r.train.epochs)}, "
                f"batch {r.data.batch_size}, lr {r.optim.lr:g}{f'   the paper: {printed} %' if printed else ''}"
            )
        show.differs(plan.differs)
        runs |= plan.runs
    print(f"\n{len(runs)} runs in {folder}: {'; '.join(notes)}", flush=True)


def _train(folder: Path, ready: list[Plan], *, jobs: int, as_json: bool) -> int:
    from senet.report.folder import write_page
    from senet.runs.folder import read_summary
    from senet.training.queue import run_all
    from senet.training.reproduction import read_plans, write

    runs = {name: recipe for plan in ready for name, recipe in plan.runs.items()}
    waiting = {name: r for name, r in runs.items() if read_summary(folder / RUNS / name) is None}
    say = running.counting(len(runs) - len(waiting), len(runs))
    with running.progress(as_json):
        running.fetch(r.data for r in waiting.values())
        done = run_all(
            runs, running.open_images, folder / RUNS, jobs=jobs, announce=show.announce, say=say, part_of=folder
        )
        # The folder's other targets too, as far as they have come.
        everything = read_plans(folder)
        for plan in everything:
            for name in plan.runs:
                if name not in done.summaries and (summary := read_summary(folder / RUNS / name)) is not None:
                    done.summaries[name] = summary
                if plan.target.crops and name in done.summaries:
                    done.summaries[name] |= _at_crops(folder / RUNS / name, plan.target.crops)
        asked = {plan.target.name for plan in ready}
        results = [
            found for found in write(folder, everything, done.summaries, done.failed) if found["target"] in asked
        ]
        for plan in ready:
            if plan.target.shows == "gates":
                _gates(folder, plan, done.summaries)
        page = write_page(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), "report": str(page), "targets": results}, indent=2))
    else:
        for found in results:
            show.print_reproduction(found)
        print(
            f"\nreport   {page}\ntables   {folder}/{results[0]['target']}.md, .json, .png\n"
            f"again    senet reproduce --resume {folder}"
        )
    return 1 if done.failed else 0


def _at_crops(folder: Path, crops: tuple[int, ...]) -> dict[str, float]:
    """A run's errors at other sizes of the crop, the shorter side being that size too; measured once."""
    from senet.device import pick_device
    from senet.evaluation.accuracy import evaluate
    from senet.files import write_text
    from senet.runs.checkpoint import load
    from senet.runs.folder import read_json

    file = folder / "crops.json"
    found: dict[str, float] = read_json(file) if file.is_file() else {}
    for size in crops:
        if f"top1_error_{size}" in found:
            continue
        # Of the last epoch, like the errors at the network's own size.
        checkpoint = load(folder / "last.ckpt")
        recipe = checkpoint.recipe
        data = running.open_images(replace(recipe.data, image_size=size, resize=size), recipe.train.seed)
        device = pick_device(recipe.train.device, field="train.device")
        measured = evaluate(checkpoint.model, data.val, batch_size=recipe.data.eval_batch_size, device=device)
        found |= {f"{name}_{size}": getattr(measured, name) for name in ("top1_error", "top5_error")}
        write_text(file, json.dumps(found, indent=2) + "\n")
    return found


def _gates(folder: Path, plan: Plan, summaries: dict[str, Any]) -> None:
    """Draw Figures 6 and 7 for the first run that is finished, of the paper's classes where the images have them."""
    from senet.runs.checkpoint import load
    from senet.weights.ilsvrc import named

    name = next((name for name in plan.runs if name in summaries), None)
    if name is None:
        return
    # Of the last epoch, like the errors.
    last = folder / RUNS / name / "last.ckpt"
    words = [word for word in FIGURE_CLASSES if word in named(load(last).classes)]
    classes = ["--classes", ",".join(words)] if words else []
    analyze.run([str(last), "--out", str(folder / f"{plan.target.name}-gates"), *classes])


def _listing() -> str:
    rows = [("target", "what", "rows", "the paper's run")]
    rows += [(t.name, t.title, str(len(t.rows)), t.hours) for t in targets().values()]
    groups = "\n".join(f"{name}: {', '.join(members)}" for name, members in GROUPS.items())
    hint = "senet reproduce TARGET --plan says what would be run, and how long it takes here"
    return f"{table(rows, left=(0, 1, 3))}\n{groups}\n\n{hint}"
