"""Which fields of a recipe have no effect beside the others."""

from __future__ import annotations

from collections.abc import Iterable

from senet.errors import ConfigError
from senet.recipes.recipe import Recipe


def check_labels(recipe: Recipe) -> None:
    """Raise ConfigError where a recipe's images have other labels than its network learns."""
    labels, kind = recipe.data.labels, recipe.task.name
    if kind == "classification" and labels != "classes":
        raise ConfigError(
            f"data.labels: {labels!r} are for a detector, and {recipe.name} classifies; expected: classes, or a "
            "network such as fasterrcnn_se_resnet50_fpn"
        )
    needs = "masks" if getattr(recipe.model, "head", "") == "maskrcnn" else "boxes"
    if kind == "detection" and labels != needs:
        raise ConfigError(f"data.labels: {labels!r} are not what {recipe.name} learns; expected: {needs}")
    if kind == "detection" and recipe.data.channels != recipe.model.in_channels:
        raise ConfigError(
            f"data.mean: {recipe.data.channels} channels, and a detector takes {recipe.model.in_channels}"
        )


def check_effects(recipe: Recipe, named: Iterable[str]) -> None:
    """Raise ConfigError where a field that somebody set has no effect in the recipe.

    Args:
        recipe: with the fields set.
        named: paths of the fields that were set, "data.crop_padding".
    """
    check_labels(recipe)
    d, o, s, t = recipe.data, recipe.optim, recipe.schedule, recipe.train
    known = d.name in ("digits", "cifar10", "cifar100")
    is_memory = d.is_in_memory or known
    conditions = {
        "schedule.gamma": (s.kind in ("step", "plateau"), f"schedule.kind={s.kind}"),
        "schedule.patience": (s.kind == "plateau", f"schedule.kind={s.kind}"),
        "schedule.cuts": (s.kind == "plateau", f"schedule.kind={s.kind}"),
        "schedule.warmup_start": (s.warmup_epochs > 0, "schedule.warmup_epochs=0"),
        "schedule.warmup_shape": (s.warmup_epochs > 0, "schedule.warmup_epochs=0"),
        "train.early_stopping": (
            t.early_stopping < t.epochs,
            f"train.epochs={t.epochs}; expected: 0, or fewer epochs in the training of a single network",
        ),
        "optim.momentum": (o.kind == "sgd", f"optim.kind={o.kind}"),
        "optim.nesterov": (o.kind == "sgd", f"optim.kind={o.kind}"),
        "optim.betas": (o.kind == "adamw", f"optim.kind={o.kind}"),
        "data.randaugment_ops": (d.auto_augment == "randaugment", f"data.auto_augment={d.auto_augment}"),
        "data.randaugment_magnitude": (d.auto_augment == "randaugment", f"data.auto_augment={d.auto_augment}"),
        "data.keep_aspect": (not known, f"data.name={d.name}, whose images are square"),
        "data.crop_padding": (d.crop == "pad", f"data.crop={d.crop}"),
        "data.crop_scale": (d.crop == "resized", f"data.crop={d.crop}"),
        "data.crop_ratio": (d.crop == "resized", f"data.crop={d.crop}"),
        "data.workers": (not is_memory or d.augments_each, "images that are in memory"),
        "data.resize": (not is_memory, "images that are in memory"),
        "data.root": (d.name in ("cifar10", "cifar100"), f"data.name={d.name}"),
        "data.background": (not known, f"data.name={d.name}"),
        "data.pixel_range": (not known, f"data.name={d.name}"),
        "data.on_bad_image": (not known, f"data.name={d.name}"),
        "data.shuffle_window": (not known, f"data.name={d.name}"),
        "data.shard_cache_gb": ("://" in d.name, f"data.name={d.name}, which is no URL"),
        "data.shard_cache": (d.shard_cache_gb > 0, "data.shard_cache_gb=0"),
        "data.split_seed": (
            d.name not in ("cifar10", "cifar100") or d.train_fraction < 1 or d.val_fraction > 0,
            f"data.name={d.name}, which is split already, data.val_fraction=0 and data.train_fraction=1",
        ),
    }
    for path in named:
        if path in recipe.task.without:
            raise ConfigError(f"--{path}: has no effect on {recipe.task.without[path]}")
        has_effect, because = conditions.get(path, (True, ""))
        if not has_effect:
            raise ConfigError(f"--{path}: has no effect with {because}")
