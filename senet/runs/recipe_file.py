"""Recipes as YAML files: complete, so that `senet train --config recipe.yaml` trains the same again."""

from __future__ import annotations

from pathlib import Path

import yaml

from senet.config import from_dict, to_dict
from senet.errors import ConfigError, RunError
from senet.files import write_text
from senet.recipes.recipe import Recipe

RECIPE = "recipe.yaml"


def write_recipe_file(path: Path, recipe: Recipe) -> None:
    """Write a recipe; RunError where it cannot be written."""
    write_text(path, yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None, width=100))


def read_recipe(path: Path) -> Recipe:
    """The recipe of a run folder or of a YAML file.

    Raises RunError where there is none and ConfigError where it is wrong, both in one line that names the file.
    """
    file = path / RECIPE if path.is_dir() else path
    try:
        data = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        what = f"not the folder of a run: it has no {RECIPE}" if path.is_dir() else "no such file or folder"
        raise RunError(f"{path}: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: no recipe can be read there: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RunError(f"{file}{where}: is not YAML: {reason}") from error
    if data is None:
        raise ConfigError(f"{file}: is empty and holds no recipe")
    try:
        return from_dict(Recipe, data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
