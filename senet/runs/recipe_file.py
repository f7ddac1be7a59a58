"""Recipes as YAML files: complete, so that `senet train --config recipe.yaml` trains the same again."""

from __future__ import annotations

from pathlib import Path

import yaml

from senet.config import from_dict, to_dict
from senet.errors import ConfigError, RunError
from senet.files import check_format, format_stamp, write_text
from senet.recipes.recipe import Recipe
from senet.runs.folder import RECIPE


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe to a YAML file; RunError where it cannot be written."""
    values = format_stamp() | to_dict(recipe)
    write_text(path, yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100))


def read_recipe(path: Path) -> Recipe:
    """The recipe of a run folder or of a YAML file.

    Raises:
        RunError: There is none, it cannot be read, or another version of senet wrote it.
        ConfigError: A field is wrong. Both are one line that names the file.
    """
    file = path / RECIPE if path.is_dir() else path
    try:
        data = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        what = f"not the folder of a run: it has no {RECIPE}" if path.is_dir() else "no such file or folder"
        raise RunError(f"{path}: {what}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RunError(f"{file}{where}: not YAML: {reason}") from error
    if data is None:
        raise ConfigError(f"{file}: empty; expected: a recipe")
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: {data!r} is not a recipe")
    check_format(data, path)
    try:
        return from_dict(Recipe, {name: value for name, value in data.items() if name not in format_stamp()})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
