"""Which fields of a recipe have no effect beside the others."""

from __future__ import annotations

from collections.abc import Iterable

from senet.errors import ConfigError
from senet.recipes.recipe import Recipe


def check_effects(recipe: Recipe, named: Iterable[str]) -> None:
    """Raise ConfigError where a field that somebody set has no effect in the recipe.

    Args:
        recipe: with the fields set.
        named: paths of the fields that were set, "data.crop_padding".
    """
    d, s = recipe.data, recipe.schedule
    known = d.name in ("digits", "cifar10", "cifar100")
    is_memory = d.is_in_memory or known
    conditions = {
        "schedule.gamma": (s.kind in ("step", "plateau"), f"schedule.kind={s.kind}"),
        "schedule.patience": (s.kind == "plateau", f"schedule.kind={s.kind}"),
        "schedule.cuts": (s.kind == "plateau", f"schedule.kind={s.kind}"),
        "schedule.warmup_start": (s.warmup_epochs > 0, "schedule.warmup_epochs=0"),
        "schedule.warmup_shape": (s.warmup_epochs > 0, "schedule.warmup_epochs=0"),
        "data.keep_aspect": (not known, f"data.name={d.name}, whose images are square"),
        "data.crop_padding": (d.crop == "pad", f"data.crop={d.crop}"),
        "data.crop_scale": (d.crop == "resized", f"data.crop={d.crop}"),
        "data.crop_ratio": (d.crop == "resized", f"data.crop={d.crop}"),
        "data.workers": (not is_memory, "images that are in memory"),
        "data.resize": (not is_memory, "images that are in memory"),
        "data.root": (d.name in ("cifar10", "cifar100"), f"data.name={d.name}"),
        "data.on_bad_image": (not known, f"data.name={d.name}"),
        "data.val_fraction": (d.name not in ("cifar10", "cifar100"), f"data.name={d.name}, which is split already"),
        "data.split_seed": (
            d.name not in ("cifar10", "cifar100") or d.train_fraction < 1,
            f"data.name={d.name}, which is split already, and data.train_fraction=1",
        ),
    }
    for path in named:
        has_effect, because = conditions.get(path, (True, ""))
        if not has_effect:
            raise ConfigError(f"--{path}: has no effect with {because}")
