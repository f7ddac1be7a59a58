"""From a command line to a recipe: every field of the recipe is an option, none is written by hand.

A field is set by its path, `--optim.lr 0.05`, or by the end of its path where only one field ends so, `--lr 0.05`,
`--se.reduction 8`. `--data X` is short for `--data.name X`, `--se eca` chooses the attention unit.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from argparse import SUPPRESS, Action, ArgumentError
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from senet.config import UnitConfig, field_types, no_field, override
from senet.errors import ConfigError, unknown
from senet.models.net import Net
from senet.recipes.recipe import DataRecipe, Recipe

SECTIONS = ("model", "data", "optim", "schedule", "train")


class HelpFormatter(DefaultHelpFormatter):
    """Help with the description's own line breaks, and after each option its default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(shutil.get_terminal_size((110, 24)).columns, 120))

    def _get_help_string(self, action: Action) -> str:
        default = str(action.default).lower() if isinstance(action.default, bool) else action.default
        is_required = not action.option_strings and default is None
        shown = "" if is_required or default in ("", SUPPRESS) or action.nargs == 0 else f" (default: {default})"
        return f"{(action.help or '').strip()}{shown}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


class Parser(ArgumentParser):
    """jsonargparse's parser, with options written `--batch-size` as well as `--batch_size`, and our error messages."""

    def __init__(self, command: str, words: str, description: str) -> None:
        super().__init__(
            prog=f"senet {command}",
            usage=f"senet {command} {words} [options]",
            description=description,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=HelpFormatter,
        )
        self.own: dict[str, Any] = {}

    def option(self, name: str, **kwargs: Any) -> None:
        """An option of the command itself, `--name`."""
        self.own[name] = kwargs
        self.add_argument(f"--{name.replace('_', '-')}", dest=name, **kwargs)

    def read(self, argv: list[str], base: Any = None) -> dict[str, Any]:
        """Parse. Fields of `base` come back by path under "fields", and those that the line names under "named".

        Raises ConfigError for an unknown option or a wrong value, naming it and what is legal.
        """
        fields = dict(leaves(base)) if base is not None else {}
        argv = self.expand(argv, fields)
        try:
            found = self.parse_args(argv)
        except ArgumentError as error:
            self.explain(str(error), base)
        given = [token[2:].partition("=")[0] for token in argv if token.startswith("--")]
        return {
            **{k: v for k, v in vars(found.clone(with_meta=False)).items() if k in self.own or k not in SECTIONS},
            "fields": {path: found[path] for path in fields},
            "named": [name for name in given if name in fields],
        }

    def explain(self, message: str, base: Any) -> NoReturn:
        """Say what is wrong in our words where a field is concerned."""
        match = re.match(r'Parser key "([\w.]+)":.*Got value: (.*)', message, re.DOTALL)
        if match and base is not None and match[1] in dict(leaves(base)):
            override(base, f"{match[1]}={match[2]}")
        raise ConfigError(" ".join(message.replace("Parser key ", "").split()))

    def expand(self, argv: list[str], fields: dict[str, Any]) -> list[str]:
        """Short names to paths, `--flip` to `--data.flip true`, `0.5,0.75` to `[0.5,0.75]`."""
        out: list[str] = []
        tokens = list(argv)
        while tokens:
            token = tokens.pop(0)
            if not token.startswith("--") or token == "--":
                out.append(token)
                continue
            name, has_value, value = token[2:].partition("=")
            name = name.replace("-", "_")
            if name in self.own or name == "help":
                out.append(f"--{name.replace('_', '-')}{has_value}{value}")
                continue
            path, negated = self.resolve(name, fields)
            hint = fields[path]
            if not has_value:
                is_flag = hint is bool and (not tokens or tokens[0].lower() not in ("true", "false"))
                if negated or is_flag:
                    value = "false" if negated else "true"
                elif not tokens:
                    raise ConfigError(f"--{path}: a value is missing")
                else:
                    value = tokens.pop(0)
            if is_tuple(hint) and value not in ("null", "None") and not value.startswith("["):
                value = f"[{value}]"
            out.append(f"--{path}={value}")
        return out

    def resolve(self, name: str, fields: dict[str, Any]) -> tuple[str, bool]:
        """The path of the field that an option means, and whether it is `--no-` one."""
        for word, negated in ((name, False), (name.removeprefix("no_"), True)):
            if negated and word == name:
                break
            if f"{word}.name" in fields:
                return f"{word}.name", negated
            found = [path for path in fields if path == word or path.endswith(f".{word}")]
            if len(found) > 1:
                raise ConfigError(f"--{word}: could mean {' or '.join(f'--{p}' for p in found)}")
            if found and (not negated or fields[found[0]] is bool):
                return found[0], negated
        section, _, _ = name.rpartition(".")
        inside = [p.rpartition(".")[2] for p in fields if f".{p}".rpartition(".")[0].endswith(f".{section}")]
        if section and inside:
            raise no_field(name, inside)
        if section.endswith("se") and any(path.startswith("model.") for path in fields):
            raise ConfigError(f"--{name}: has no effect, the network has no attention unit; choose one with --se")
        words = dict.fromkeys([*self.own, *(p.rpartition(".")[2] for p in fields)])
        raise unknown("option", f"--{name}", [f"--{w.replace('_', '-')}" for w in words], kind="options")


def is_tuple(hint: Any) -> bool:
    """Whether a field takes a tuple."""
    return get_origin(hint) is tuple or any(
        get_origin(a) is tuple for a in get_args(hint) if isinstance(hint, UnionType)
    )


FROM_THE_IMAGES = ("model.num_classes", "model.in_channels", "model.image_size")
"""Fields of a recipe's network that the data set decides."""

ONLY_FOR_TRAINING = tuple(
    f"data.{name}"
    for name in (
        *("batch_size", "crop", "crop_padding", "crop_scale", "crop_ratio", "flip", "cutout", "rotate", "jitter"),
        *("val_fraction", "split_seed", "train_fraction"),
    )
)
"""Fields of the data recipe that evaluation does not use, or must not change: another split holds training images."""


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Path and type of every field of a recipe or network that an option can set."""
    out: list[tuple[str, Any]] = []
    for name, hint in field_types(type(config)).items():
        value, path = getattr(config, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            out += leaves(value, f"{path}.")
        elif not _is_table(hint) and path != "name":
            out.append((path, hint))
    hidden = (
        FROM_THE_IMAGES if isinstance(config, Recipe) else ONLY_FOR_TRAINING if isinstance(config, DataOnly) else ()
    )
    return [(p, h) for p, h in out if not p.startswith("model.stem.") and p not in hidden]


def _is_table(hint: Any) -> bool:
    """Rows of a network's table, or an absent unit: not for options."""
    return any(dataclasses.is_dataclass(a) or _is_table(a) for a in get_args(hint))


def add_fields(parser: Parser, base: Any) -> None:
    """Make every field of `base` (a recipe, or a `{"model": net}`-like recipe part) an option, by section."""
    values = dict(leaves(base))
    sections: dict[str, list[str]] = {}
    for path in values:
        sections.setdefault(path.rpartition(".")[0], []).append(path)
    for section, paths in sections.items():
        owner = value_at(base, section)
        title = next(iter((type(owner).__doc__ or "").splitlines()), "")
        group = parser.add_argument_group(f"--{section}.*", title)
        texts = field_docs(type(owner))
        for path in paths:
            name = path.rpartition(".")[2]
            text = texts.get(name, "").replace("%", "%%")
            group.add_argument(f"--{path}", type=values[path], default=value_at(base, path), help=text)


def value_at(config: Any, path: str) -> Any:
    """The value of a field by its path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def field_docs(cls: type[Any]) -> dict[str, str]:
    """What a class's docstring says of each field: `name: text`, one or several to a line, or `a, b: text`."""
    docs: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        text = re.sub(r"\n +", "\n", part.__doc__ or "")
        pieces = re.split(r"(?:\n|  )(?=(?:\w+, )*\w+: )", text)
        for piece in pieces[1:]:
            names, _, rest = piece.partition(": ")
            for name in names.split(", "):
                docs[name] = " ".join(rest.split("\n\n")[0].split())
    return docs


def apply(base: Any, fields: dict[str, Any]) -> Any:
    """`base` with the parsed fields; several that only fit together are set at once, section by section."""
    new = base
    for path in sorted(fields, key=lambda p: p.count("."), reverse=True):
        if value_at(base, path) == fields[path]:
            continue
        section = path.rpartition(".")[0]
        same = {p.rpartition(".")[2]: v for p, v in fields.items() if p.rpartition(".")[0] == section}
        new = _replace(new, section.split("."), same, section)
    return new


def _replace(config: Any, sections: list[str], values: dict[str, Any], path: str) -> Any:
    try:
        if not sections or sections == [""]:
            return replace(config, **values)
        inner = _replace(getattr(config, sections[0]), sections[1:], values, path)
        return replace(config, **{sections[0]: inner})
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if "." in text.partition(":")[0] else f"{path}.{text}") from None


def with_unit(net: Net, kind: str) -> Net:
    """The network with another attention unit by name, "none" for its plain twin; ConfigError for an unknown name."""
    if not kind:
        return net
    if kind in ("none", "null"):
        return replace(net, se=None)
    if kind not in UnitConfig.kinds:
        raise unknown("model.se", kind, ["none", *UnitConfig.kinds])
    if net.se is not None and net.se.kind == kind:
        return net
    return replace(net, se=UnitConfig.kinds[kind]())


def labelled(recipe: Recipe, kind: str) -> Recipe:
    """The recipe with another unit, and a name that says so."""
    net = with_unit(recipe.model, kind)
    return recipe if net == recipe.model else replace(recipe, model=net, name=f"{recipe.name}+{kind}")


def values(config: Any) -> dict[str, Any]:
    """Path and value of every field that an option can set."""
    return {path: value_at(config, path) for path, _ in leaves(config)}


def check_effects(recipe: Recipe, named: list[str]) -> None:
    """Raise ConfigError where the line names a field that has no effect in the recipe it makes."""
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


def with_data(recipe: Recipe, found: dict[str, Any]) -> Recipe:
    """A checkpoint's recipe with the fields of its data that the line names.

    Raises ConfigError for a field without effect, and images of other channels than the network's.
    """
    given = {path: found["fields"][path] for path in found["named"]}
    new = apply(recipe, values(recipe) | given)
    check_effects(new, found["named"])
    if new.data.channels != recipe.data.channels:
        raise ConfigError(f"data.mean: {new.data.channels} channels, and this network takes {recipe.data.channels}")
    return new


@dataclass(frozen=True)
class ModelOnly:
    """The part of a recipe that `senet info` takes."""

    model: Net


@dataclass(frozen=True)
class DataOnly:
    """The part of a recipe that `senet evaluate` takes."""

    data: DataRecipe
