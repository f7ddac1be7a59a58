"""The first look at a command line: its words and its options, before it is known which fields there are.

A word is what is neither an option nor an option's value, wherever it stands. A switch may be followed by true or
false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import senet.units.config  # noqa: F401  (so that the units' switches are known)
from senet.cli import options
from senet.config import UnitConfig, field_types
from senet.errors import ConfigError
from senet.models.registry import nets
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, TrainRecipe
from senet.recipes.registry import get_recipe, recipe_for, recipes

_CONFIGS = {DataRecipe, OptimRecipe, TrainRecipe, *UnitConfig.kinds.values(), *map(type, nets().values())}
SWITCHES = {
    *("help", "json", "plan", "details", "search", "ablate", "pretrained", "browser", "force", "table", "any_size"),
    *("int8", *(name for c in _CONFIGS for name, hint in field_types(c).items() if hint is bool)),
}
"""Options that need no value."""


@dataclass(frozen=True)
class Line:
    """A command line.

    words: in order.  options: the rest, in order.
    """

    words: tuple[str, ...]
    options: tuple[str, ...]

    @classmethod
    def of(cls, argv: list[str]) -> Line:
        """Sort a command line."""
        words, rest = [], []
        tokens = list(argv)
        while tokens:
            token = tokens.pop(0)
            if not token.startswith("-"):
                words.append(token)
                continue
            rest.append(token)
            takes_value = token.startswith("--") and "=" not in token and not is_switch(token)
            if tokens and (takes_value or (is_switch(token) and tokens[0].lower() in ("true", "false"))):
                rest.append(tokens.pop(0))
        return cls(tuple(words), tuple(rest))

    @property
    def argv(self) -> list[str]:
        """Words first, then options."""
        return [*self.words, *self.options]

    def value(self, *names: str) -> str | None:
        """The value of an option, the last one where it is repeated; None where it is not there."""
        found = None
        for i, token in enumerate(self.options):
            name, has_value, value = token.partition("=")
            if name.startswith("--") and name[2:].replace("-", "_") in names:
                found = value if has_value else "".join(self.options[i + 1 : i + 2])
        return found

    def count(self, name: str) -> int:
        """The value of an option that is a number of 1 or more; 0 where it is not there, ConfigError for another."""
        value = self.value(name)
        if value is not None and not (value.isdecimal() and int(value)):
            raise ConfigError(f"--{name}: {value!r} is not a whole number; expected: 1 or more")
        return int(value or 0)

    @property
    def asks_help(self) -> bool:
        """Whether help is wanted, and nothing else matters."""
        return bool({"-h", "--help"} & set(self.options))

    def resume_folder(self, *also: str) -> Path | None:
        """The folder to go on with, or None; ConfigError for an empty one, or options beside it but these."""
        folder = self.value("resume")
        if folder is None:
            return None
        if not folder:
            raise ConfigError("--resume: the folder's name is missing")
        legal = {f"--{name}" for name in ("resume", "json", *also)}
        others = [t for t in self.options if t.startswith("-") and t.partition("=")[0] not in legal]
        if self.words or others:
            but = f" but {' and '.join(f'--{name}' for name in also)}" if also else ""
            raise ConfigError(
                f"--resume: takes no other options{but}, the run keeps its recipe: {(*self.words, *others)[0]}"
            )
        return Path(folder).expanduser()

    def recipe(self, model: str) -> Recipe:
        """The recipe for a network ("" for the recipe's own), as `--recipe` and `--data` say."""
        wanted = self.value("recipe") or ""
        own = get_recipe(wanted).data.name if wanted else "digits"
        return recipe_for(self.value("data", "data.name", "name") or own, recipe=wanted, model=model)


def is_switch(token: str) -> bool:
    """Whether an option needs no value: `--json`, `--data.flip`, `--no-flip`."""
    name = token.removeprefix("--").replace("-", "_").rpartition(".")[2]
    return name in SWITCHES or name.removeprefix("no_") in SWITCHES


def common_options(parser: options.Parser) -> None:
    """What `train` and `compare` share."""
    parser.option("recipe", default="", metavar="NAME", help=f"{', '.join(recipes())}; by default the data set's own")
    parser.option("se", default="", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")
    parser.option("out", default="", metavar="FOLDER", help="the run folder, new or empty; by default in runs/")
    parser.option("json", action="store_true", help="print the result as JSON, and progress on standard error")
    parser.option("resume", default="", metavar="FOLDER", help="go on with the run, or comparison, in this folder")


def with_changes(base: Recipe, shown: Recipe, changed: Recipe) -> Recipe:
    """The changes that the options made of `shown`, made to the recipe of another network."""
    here, wanted = options.values(shown), options.values(changed)
    own = options.values(base)
    differing = {path: value for path, value in wanted.items() if value != here[path] and path in own}
    recipe = options.apply(base, own | differing)
    if base.model.se is None or changed.model.se is None or recipe.model.se == changed.model.se:
        return recipe
    name = base.name if changed.model.se.kind == base.model.se.kind else f"{base.name}+{changed.model.se.kind}"
    return replace(recipe, name=name, model=replace(recipe.model, se=changed.model.se))
