"""How an experiment differs from another one, such as the paper's: one line for each field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from senet.experiments.experiment import BUILT_IN, Experiment, result_fields
from senet.models.detector import DetectorNet
from senet.models.net import Net
from senet.models.registry import nets
from senet.recipes.recipe import Recipe


def differs(original: Experiment, ours: Experiment) -> tuple[str, ...]:
    """How our experiment differs from the original, in lines.

    A line names the fields with both values, and the rows where it is not true of all of them.
    """
    found: dict[str, list[str]] = {}
    for name, recipe in original.trained.items():
        if name not in ours.trained:
            continue
        here = ours.trained[name]
        if here.data.name not in BUILT_IN:
            # Where the folder lies says nothing to anybody else.
            label = here.data.label
            label = label if label == recipe.data.name else f"{label}, a folder of images"
            here = replace(here, data=replace(here.data, name=label))
        for line in recipe_changes(recipe, here):
            found.setdefault(line, []).append(name)
    all_rows = len(ours.trained)
    lines = [line if len(names) == all_rows else f"{line} ({', '.join(names)})" for line, names in found.items()]
    absent = [name for name in original.trained if name not in ours.trained]
    return (*lines, *([f"rows left out: {', '.join(absent)}"] if absent else []))


def recipe_changes(original: Recipe, ours: Recipe) -> list[str]:
    """How our recipe differs from the original, one line for each field, "train.epochs: 5, not 300"."""
    before, here = dict(result_fields(original)), dict(result_fields(ours))
    lines = [f"{path}: {_shown(v)}, not {_shown(before[path])}" for path, v in here.items() if v != before[path]]
    if original.model.se != ours.model.se:
        lines.insert(0, f"unit: {ours.model.se}, not {original.model.se}")
    old_net, new_net = replace(original.model, se=None), replace(ours.model, se=None)
    if isinstance(old_net, DetectorNet) and isinstance(new_net, DetectorNet):
        # The fields of a detector by their names; the trunk is what remains.
        for name in ("protocol", "freeze_at", "freeze_units", "freeze_norm", "rois", "proposals"):
            now, was = getattr(new_net, name), getattr(old_net, name)
            if now != was:
                lines.append(f"model.{name}: {_shown(now)}, not {_shown(was)}")
                old_net = replace(old_net, **{name: now})
        old_net, new_net = old_net.trunk, new_net.trunk
    if old_net != new_net:
        lines.insert(0, f"network: {_network_name(new_net)} instead of {_network_name(old_net)}")
    return lines


def _shown(value: Any) -> Any:
    """A value as a line shows it: true and false as in YAML, numbers with four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _network_name(net: Net) -> str:
    """The name of a plain network, or a description of one that has none."""
    for name, known in nets().items():
        if replace(net, num_classes=known.num_classes, image_size=known.image_size) == known:
            return name
    stages = net.stage_outputs
    return f"a {net.kind} network of {len(stages)} stages up to {stages[-1].channels} channels"
