"""Networks of timm and torchvision by name, for commands that take anyone's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import CheckpointError, ConfigError, unknown
from senet.recipes.recipe import DataRecipe, Recipe
from senet.recipes.registry import recipe_for

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("timm", "torchvision")


def elsewhere(checkpoint: str, pretrained: bool) -> tuple[str, str] | None:
    """The library and the name of "timm:NAME"; None for a path, a checkpoint of ours.

    Raises ConfigError for a library that is not known, and for `pretrained` with a path.
    """
    library, colon, name = checkpoint.partition(":")
    if colon and not Path(checkpoint).expanduser().exists():
        if library not in LIBRARIES:
            raise unknown("CHECKPOINT", library, LIBRARIES, kind="libraries")
        return library, name
    if pretrained:
        raise ConfigError("--pretrained: has no effect on a checkpoint; it goes with timm:NAME or torchvision:NAME")
    return None


def theirs(library: str, name: str, pretrained: bool) -> tuple[nn.Module, Recipe, Sequence[str]]:
    """A network of timm or torchvision, a recipe with the data as it takes them, and the classes of its outputs.

    Raises ConfigError for an unknown name, and CheckpointError where its weights cannot be had.
    """
    import torch

    # Their weights are drawn from the global state, which is not ours to move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model, data = (_timm if library == "timm" else _torchvision)(name, pretrained)
        except (OSError, RuntimeError) as error:
            if not pretrained:
                raise
            why = str(error).splitlines()[0]
            raise CheckpointError(f"{library}:{name}: its weights cannot be loaded ({why})") from error
    # Of its recipe only the data are of use here.
    recipe = replace(recipe_for("digits"), name=f"{library}:{name}", data=data)
    from senet.weights.ilsvrc import synsets

    outputs = next((m.out_features for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear)), 0)
    return model, recipe, synsets() if outputs == 1000 else [f"class {k}" for k in range(outputs)]


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, DataRecipe]:
    try:
        import timm
        from timm.data.config import resolve_data_config
    except ImportError as error:
        raise ConfigError("CHECKPOINT: timm is not installed: pip install timm") from error
    if not timm.is_model(name):
        raise _no_network("timm", name, timm.list_models())
    model = timm.create_model(name, pretrained=pretrained)
    how = resolve_data_config({}, model=model)
    size = how["input_size"][-1]
    return model, _recipe(size, int(size / how["crop_pct"]), how["mean"], how["std"], how["interpolation"])


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, DataRecipe]:
    from torchvision import models

    if name not in models.list_models(models):
        raise _no_network("torchvision", name, models.list_models(models))
    weights = models.get_model_weights(name)["DEFAULT"]
    how = weights.transforms()
    model = models.get_model(name, weights=weights if pretrained else None)
    return model, _recipe(how.crop_size[0], how.resize_size[0], how.mean, how.std, how.interpolation.value)


def _recipe(size: int, resize: int, mean: Sequence[float], std: Sequence[float], interpolation: str) -> DataRecipe:
    """Evaluation images as others describe it, with mean and deviation in 0 to 1."""
    return DataRecipe(
        image_size=size,
        resize=max(size, resize),
        mean=tuple(255 * v for v in mean),
        std=tuple(255 * v for v in std),
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
    )


def _no_network(library: str, name: str, names: Sequence[str]) -> ConfigError:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=5, cutoff=0.3)
    return ConfigError(f"CHECKPOINT: {library} has no {name!r}; among its {len(names):,} networks: {', '.join(near)}")
