"""The trunk of any network, which is all but its classifier and attention units: its stages, and how it is frozen."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.foreign_models import classifier_name
from senet.units.unit import Unit


def trunk_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of the trunk's parts, down to single layers; the classifier and attention units are left out."""
    head = classifier_name(network)
    left_out = tuple(f"{n}." for n, m in network.named_modules() if n == head or isinstance(m, Unit))
    return {name: m for name, m in network.named_modules() if not f"{name}.".startswith(left_out)}


def trunk_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of the trunk, in the network's order."""
    return {
        f"{name}.{leaf}" if name else leaf: p
        for name, module in trunk_modules(network).items()
        for leaf, p in module.named_parameters(recurse=False)
    }


def freeze_trunk_(network: nn.Module) -> None:
    """Stop the trunk's parameters, and the statistics of its batch norms, where they are."""
    for module in trunk_modules(network).values():
        for p in module.parameters(recurse=False):
            p.requires_grad_(False)
        if isinstance(module, _BatchNorm):
            module.eval()


def depths(network: nn.Module) -> dict[str, int]:
    """Name of a parameter -> stages from the classifier: 0 for it and for attention units, 1 for the last stage.

    Stages are those of our tables, else those of timm (`group_matcher`), else the network's children in order; a norm
    belongs to what it follows.
    """
    stages = _stages(network, trunk_parameters(network))
    count = max(stages.values(), default=-1) + 1
    return {name: count - stages[name] if name in stages else 0 for name, _ in network.named_parameters()}


def _stages(network: nn.Module, trunk: dict[str, nn.Parameter]) -> dict[str, int]:
    """Name of a parameter of the trunk -> number of its stage, from 0."""
    matcher: Any = getattr(network, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        found: Any = group_parameters(network, matcher(coarse=True), reverse=True)
        numbers = sorted({found[name] for name in trunk})
        return {name: numbers.index(found[name]) for name in trunk}
    parts: dict[str, list[str]] = {}
    for name in trunk:
        first, _, rest = name.partition(".")
        # Networks that keep their stages in one container, ours among them, call it so.
        parts.setdefault(f"{first}.{rest.partition('.')[0]}" if first == "features" else first, []).append(name)
    stages, number = {}, 0
    for i, names in enumerate(parts.values()):
        # A norm alone has vectors only.
        number += i > 0 and any(trunk[name].dim() > 1 for name in names)
        stages |= dict.fromkeys(names, number)
    return stages
