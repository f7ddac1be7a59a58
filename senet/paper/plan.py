"""A target as it is run here: on the user's data, shortened to the user's time, and what that changes.

Every row of a target is changed alike, so its rows stay twins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from senet.config import to_dict
from senet.errors import ConfigError, RunError, unknown
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net, nets
from senet.paper.registry import targets
from senet.paper.target import Row, Target
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.recipes.registry import get_recipe

BUILT_IN = ("digits", "cifar10", "cifar100")

UNSAID = ("data.root", "data.workers", "data.eval_batch_size", "train.device", "train.threads")
UNSAID += ("train.seed", "train.channels_last", "train.save_batches", "train.tensorboard", "train.fused")
"""Fields that change nothing but where and how fast a run is."""

SECTIONS = {"data": DataRecipe, "optim": OptimRecipe, "schedule": ScheduleRecipe, "train": TrainRecipe}
_DEFAULTS = {f"{section}.{name}": value for section, cls in SECTIONS.items() for name, value in to_dict(cls()).items()}

SMALL_IMAGE = 64
"""Pixels of a side up to which a network for ImageNet makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is run for a target.

    target: with the recipes as they are run; lines of others' results have none.
    seeds: of each row.  differs: what is otherwise than in the paper, a line each.
    budget: the time, in the user's words, that chose the epochs; "" where they were named.
    commands: what was typed for it, in order.
    """

    target: Target
    seeds: tuple[int, ...]
    differs: tuple[str, ...]
    budget: str = ""
    commands: tuple[str, ...] = ()

    @property
    def runs(self) -> dict[str, Recipe]:
        """Name of a run -> its recipe, seed by seed, so that a part of the queue is a fair comparison already.

        Rows of one recipe, in one table or several, are one run.
        """
        rows = [row.recipe for row in self.target.rows if row.recipe is not None]
        return {key(r, seed): replace(r, train=replace(r.train, seed=seed)) for seed in self.seeds for r in rows}


def key(recipe: Recipe, seed: int) -> str:
    """A run's name: its network's, a digest of all that its result depends on, and its seed.

    Fields that have their default do not count, so a field that is new in senet renames no run.
    """
    said = {path: value for path, value in _fields(recipe) if value != _DEFAULTS[path]}
    if recipe.data.name not in BUILT_IN:
        # One folder, however it is written; "cifar10/" is not the data set of that name.
        said["data.name"] = os.path.join(".", os.path.normpath(recipe.data.name))
    text = json.dumps([to_dict(recipe.model), said], sort_keys=True)
    return f"{recipe.name}-{blake2b(text.encode(), digest_size=4).hexdigest()}-seed{seed}"


def chosen(target: Target, names: Sequence[str]) -> Target:
    """The target with these rows alone, and those they are compared with; ConfigError for an unknown name."""
    legal = [row.name for row in target.rows if row.recipe is not None]
    for name in names:
        if name not in legal:
            raise unknown("--rows", name, legal, kind=f"rows of {target.name}")
    bases = {row.minus for row in target.rows if row.name in names}
    return replace(target, rows=tuple(row for row in target.rows if row.name in {*names, *bases} or not names))


def placed(target: Target, data: str, size: int = 0) -> Target:
    """The target on other images: a data set's name or a folder's path, "" for the paper's.

    size: pixels of a side that will be asked for; 0 for the recipe's.
    """
    return changed(target, lambda recipe: _on(recipe, data, size))


def networked(target: Target, network: str) -> Target:
    """The target with another network for all rows.

    network: the plain network that each row's unit is put into; "" for the paper's, or the target's stand-in where the
        images are small and the paper's network is not for them.

    Raises ConfigError where no network fits the images, or two rows become one.
    """
    if not network:
        return changed(target, lambda recipe: _small(target, recipe))
    name = canonical_name(network).removeprefix("se_")
    plain = replace(get_net(canonical_name(network)), se=None)
    target = changed(target, lambda recipe: _with_network(recipe, name, plain))
    seen: dict[str, str] = {}
    for row in target.rows:
        if row.recipe is not None and (other := seen.setdefault(key(row.recipe, 0), row.name)) != row.name:
            raise ConfigError(
                f"--network: with {network} for all, the rows {other!r} and {row.name!r} of {target.name} are one; "
                "choose rows with --rows"
            )
    return target


def changed(target: Target, change: Callable[[Recipe], Recipe]) -> Target:
    """The target with each row's recipe changed."""
    return replace(
        target,
        rows=tuple(row if row.recipe is None else replace(row, recipe=change(row.recipe)) for row in target.rows),
    )


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe in so many epochs; in fewer, warm-up, a plateau's patience and frozen epochs keep their part of it."""
    s, t = recipe.schedule, recipe.train
    part = min(1.0, epochs / t.epochs)
    patience = max(1, round(s.patience * part)) if s.kind == "plateau" else s.patience
    frozen = min(max(1, round(t.freeze_bn_epochs * part)), epochs - 1) if t.freeze_bn_epochs else 0
    return replace(
        recipe,
        schedule=replace(s, warmup_epochs=s.warmup_epochs * part, patience=patience),
        train=replace(t, epochs=epochs, freeze_bn_epochs=frozen),
    )


def merged(before: Plan, now: Plan) -> Plan:
    """A plan with the rows, seeds and commands that another one of its target has beside its own.

    Raises RunError where a row of both is not the same run, so that no result is mixed from two experiments or lost.
    """
    paper = targets().get(now.target.name, now.target)
    there, here = ({row.name: row for row in plan.target.rows} for plan in (before, now))
    for name, row in here.items():
        old, new = there[name].recipe if name in there else None, row.recipe
        if old is not None and new is not None and key(old, 0) != key(new, 0):
            raise RunError(f"{now.target.name}, {name}: {'; '.join(_changes(old, new))}")
    both = there | here
    order = {row.name: place for place, row in enumerate(paper.rows)}
    rows = sorted(both.values(), key=lambda row: order.get(row.name, len(order)))
    target = replace(now.target, rows=tuple(rows))
    return replace(
        now,
        target=target,
        seeds=tuple(sorted({*before.seeds, *now.seeds})),
        differs=now.differs if paper is now.target else differs(paper, target),
        budget=now.budget or before.budget,
        commands=tuple(dict.fromkeys((*before.commands, *now.commands))),
    )


def _changes(theirs: Recipe, ours: Recipe) -> list[str]:
    """What one recipe has otherwise than another, a line each."""
    before, here = dict(_fields(theirs)), dict(_fields(ours))
    lines = [f"{path}: {_said(v)}, not {_said(before[path])}" for path, v in here.items() if v != before[path]]
    if theirs.model.se != ours.model.se:
        lines.insert(0, f"unit: {ours.model.se}, not {theirs.model.se}")
    plain, own = replace(theirs.model, se=None), replace(ours.model, se=None)
    return [f"network: {_called(own)} instead of {_called(plain)}", *lines] if plain != own else lines


def differs(paper: Target, ours: Target) -> tuple[str, ...]:
    """What is otherwise than in the paper, a line each: the fields, and the rows where it is not all of them."""
    rows = {row.name: row.recipe for row in ours.rows if row.recipe is not None}
    found: dict[str, list[str]] = {}
    for row in paper.rows:
        recipe = rows.get(row.name)
        if row.recipe is None or recipe is None:
            continue
        if recipe.data.name not in (row.recipe.data.name, *BUILT_IN):
            # Where the folder lies says nothing to anybody else.
            said = f"{Path(recipe.data.name).name}, a folder of images"
            recipe = replace(recipe, data=replace(recipe.data, name=said))
        for line in _changes(row.recipe, recipe):
            found.setdefault(line, []).append(row.name)
    lines = [line if len(names) == len(rows) else f"{line} ({', '.join(names)})" for line, names in found.items()]
    left = [row.name for row in paper.rows if row.recipe is not None and row.name not in rows]
    return (*lines, *([f"rows left out: {', '.join(left)}"] if left else []))


def _fields(recipe: Recipe) -> Iterable[tuple[str, Any]]:
    data = recipe.data
    if data.name in BUILT_IN or data.is_in_memory == replace(data, in_memory="auto").is_in_memory:
        # Images in memory are scaled before they are cropped, files after; "auto" is what their size decides.
        recipe = replace(recipe, data=replace(data, in_memory="auto"))
    for section in SECTIONS:
        for name, value in to_dict(getattr(recipe, section)).items():
            if f"{section}.{name}" not in UNSAID:
                yield f"{section}.{name}", value


def _said(value: Any) -> Any:
    """As a line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _called(net: Net) -> str:
    """A plain network in words: its name, or what it is."""
    for name, known in nets().items():
        if replace(net, num_classes=known.num_classes, image_size=known.image_size) == known:
            return name
    outputs = net.stage_outputs
    return f"a {net.kind} network of {len(outputs)} stages up to {outputs[-1].channels} channels"


def _on(recipe: Recipe, data: str, size: int) -> Recipe:
    if not data or data == recipe.data.name:
        return recipe
    if {data, recipe.data.name} == {"cifar10", "cifar100"}:
        return replace(recipe, data=replace(recipe.data, name=data))
    is_small = 0 < size <= SMALL_IMAGE < recipe.data.image_size
    if data in BUILT_IN or is_small:
        # As such images are prepared; the batch is the protocol's.
        own = get_recipe(data if data in BUILT_IN else "cifar10").data
        return replace(recipe, data=replace(own, name=data, batch_size=recipe.data.batch_size))
    return replace(recipe, data=replace(recipe.data, name=data))


def _with_network(recipe: Recipe, name: str, plain: Net) -> Recipe:
    se = recipe.model.se
    return replace(recipe, name=f"se_{name}" if se else name, model=replace(plain, se=se))


def _small(target: Target, recipe: Recipe) -> Recipe:
    size = recipe.data.image_size
    if size > SMALL_IMAGE or recipe.model.image_size <= SMALL_IMAGE:
        return recipe
    if target.small is None:
        raise ConfigError(
            f"--network: {target.name}'s networks are for images of {recipe.model.image_size} pixels and these have "
            f"{size}; name one for them, such as resnet20, and choose --rows"
        )
    return _with_network(recipe, "stand_in", target.small)


def row_named(target: Target, name: str) -> Row:
    """A row by its name."""
    return next(row for row in target.rows if row.name == name)
