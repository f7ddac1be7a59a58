"""The one reader of command lines: the words and options of a command, and every field of a recipe as an option.

A field is set by its path, `--optim.lr 0.05`, or by the end of its path where only one field ends so, `--lr 0.05` or
`--se.reduction 8`. `--data X` is short for `--data.name X`, `--flip` for `--data.flip true`, `--no-flip` for false.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NoReturn, get_args

import senet.units.config  # noqa: F401  (so that the fields of every unit are known)
from senet.config import UnitConfig, field_docs, field_types, no_field, override
from senet.errors import ConfigError, unknown
from senet.models.net import Net
from senet.recipes.effects import check_effects
from senet.recipes.recipe import DataRecipe, Recipe
from senet.recipes.registry import get_recipe

SECTIONS = ("model", "data", "optim", "schedule", "train")

FROM_THE_IMAGES = ("model.num_classes", "model.in_channels", "model.image_size")
"""Fields of a recipe's network that the data set decides."""

OF_THE_DETECTOR = tuple(f"trunk.{name}" for name in ("num_classes", "in_channels", "image_size", "dropout", "se"))
"""Fields of a detector's trunk that the detector decides."""

ONLY_FOR_TRAINING = tuple(
    f"data.{name}"
    for name in (
        *("batch_size", "crop", "crop_padding", "crop_scale", "crop_ratio", "flip", "cutout", "rotate", "jitter"),
        *("val_fraction", "split_seed", "train_fraction"),
    )
)
"""Fields of the data recipe that evaluation does not use, or must not change: another split holds training images."""


ELSEWHERE = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "img_size": "image_size",
    "imgsz": "image_size",
    "data_dir": "data",
    "num_workers": "workers",
    "output": "out",
    "output_dir": "out",
    "drop_rate": "dropout",
    "opt": "optim.kind",
    "optimizer": "optim.kind",
    "gradient_clip_val": "clip_norm",
    "clip_grad": "clip_norm",
    "accumulate_grad_batches": "accumulate",
    "resume_from_checkpoint": "resume",
}
"""Names of options in timm, torchvision, Lightning and YOLO -> ours, which are not similar enough to be guessed."""


@dataclass(frozen=True)
class ModelOnly:
    """The part of a recipe that `senet info` takes."""

    model: Net


@dataclass(frozen=True)
class DataOnly:
    """The part of a recipe that evaluation takes."""

    data: DataRecipe


@dataclass(frozen=True)
class Option:
    """An option of a command itself.

    Attributes:
        name: with underscores; typed with dashes.
        help: what it does.
        type: str, int, float, or bool for a switch without a value.
        default: value where it is not given.
        metavar: how help calls the value.
        choices: the values that it can have; empty for any.
        low: smallest number that it can be; None for any.
        high: largest number that it can be.
        rare: listed by `--help all` only.
    """

    name: str
    help: str
    type: type = str
    default: Any = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float = math.inf
    rare: bool = False

    @property
    def flag(self) -> str:
        """As it is typed: "--min-ms"."""
        return f"--{self.name.replace('_', '-')}"

    def read(self, text: str) -> Any:
        """The value of a text; ConfigError where it has none."""
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise ConfigError(f"{self.flag}: {text!r} is not true or false")
            return text.lower() == "true"
        try:
            value = self.type(text)
        except ValueError:
            kind = "a whole number" if self.type is int else "a number"
            raise ConfigError(f"{self.flag}: {text!r} is not {kind}") from None
        if self.choices and value not in self.choices:
            raise unknown(self.flag, value, self.choices)
        if self.low is not None and not value >= self.low:
            raise ConfigError(f"{self.flag}: {text} is too small; expected: {self.low:g} or more")
        if self.type is not str and value > self.high:
            raise ConfigError(f"{self.flag}: {text} is too large; expected: at most {self.high:g}")
        return value


@dataclass
class Line:
    """A command line that was read.

    Attributes:
        words: what is neither an option nor an option's value, in order.
        values: name of an option or word -> its value, defaults included.
        given: names of the command's own options that were typed.
        fields: the other options as they were typed: name, and the value or None for a switch.
        base: the config that the fields belong to; None where the command has no fields.
        config: `base` with the fields set.
        assignments: the fields as `config.override` takes them, "data.name=photos".
        named: paths of the fields.
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    fields: list[tuple[str, str | None]] = field(default_factory=list)
    base: Any = None
    config: Any = None
    assignments: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def field(self, *names: str) -> str | None:
        """The text of a field by the names that it can be typed with, the last where it is repeated; None if absent."""
        return next((text for name, text in reversed(self.fields) if name in names), None)

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raise ConfigError if one of these options was typed: "--top: has no effect " and the reason."""
        for name in names:
            if name in self.given:
                raise ConfigError(f"--{name.replace('_', '-')}: has no effect {why}")

    def beside(self, *allowed: str) -> list[str]:
        """The words, and the options but these, as they were typed."""
        options = [name for name in (*self.given, *(name for name, _ in self.fields)) if name not in allowed]
        return [*self.words, *(f"--{name.replace('_', '-')}" for name in options)]


class Parser:
    """Reads the line of one command, and prints its help.

    Args:
        command: name of the command.
        usage: its words, "[MODEL]".
        description: the help's text.
        examples: lines that help shows.
        base: from the line to the config whose fields are options, read before they are set; None for no fields.
        common: paths of the fields that the short help lists.
    """

    def __init__(
        self,
        command: str,
        usage: str,
        description: str,
        *,
        examples: Sequence[str] = (),
        base: Callable[[Line], Any] | None = None,
        common: Sequence[str] = (),
    ) -> None:
        self.command, self.usage, self.description = command, usage, description
        self.examples, self.base, self.common = examples, base, common
        self.words: list[tuple[str, str, str]] = []
        self.options: dict[str, Option] = {}

    def word(self, name: str, help: str, count: str = "1") -> None:
        """A word of the command; `count`: "1", "?" for one that may be missing, "+" or "*" for a list."""
        self.words.append((name, help, count))

    def option(self, name: str, help: str, **how: Any) -> None:
        """An option of the command itself; `how`: the other attributes of `Option`."""
        self.options[name] = Option(name, help, **how)

    def switch(self, name: str, help: str, **how: Any) -> None:
        """An option without a value."""
        self.options[name] = Option(name, help, type=bool, default=False, **how)

    def device(self, help: str = "device that computes; auto: a GPU if there is one") -> None:
        """The option --device."""
        self.option("device", help, default="auto", choices=("auto", "cpu", "cuda"))

    def json(self) -> None:
        """The switch --json."""
        self.switch("json", help="print JSON, and progress on standard error")

    def read(self, argv: Sequence[str]) -> Line:
        """Read a command line; print help and exit where it asks for help.

        Raises:
            ConfigError: an unknown option or a wrong value, naming it and what was expected.
        """
        line, topic = self._split(argv)
        if topic is not None:
            self._print_help(line, topic)
            raise SystemExit(0)
        self._read_words(line)
        if self.base is not None:
            line.base = self.base(line)
        if line.base is not None:
            self._set_fields(line)
        elif line.fields and self.base is None:
            self._refuse(line.fields[0][0], {})
        return line

    def _split(self, argv: Sequence[str]) -> tuple[Line, str | None]:
        """Sort the tokens of a line; also the topic where help is asked for, "" for the short one."""
        line, topic, tokens = Line(), None, list(argv)
        line.values = {option.name: option.default for option in self.options.values()}
        while tokens:
            token = tokens.pop(0)
            if token in ("-h", "--help"):
                topic = tokens.pop(0) if tokens and tokens[0] in ("all", *SECTIONS) else ""
                continue
            if not token.startswith("-") or token == "-":
                line.words.append(token)
                continue
            name, has_value, text = token.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            option = self.options.get(name)
            if not token.startswith("--") or not name:
                self._refuse(token, {})
            value: str | None = text if has_value else None
            is_switch = option.type is bool if option else is_flag(name)
            if value is None and tokens:
                takes = tokens[0].lower() in ("true", "false") if is_switch else not tokens[0].startswith("--")
                value = tokens.pop(0) if takes else None
            if option is None:
                line.fields.append((name, value))
                continue
            if not value and option.type is not bool:
                raise ConfigError(f"{option.flag}: a value is missing")
            line.values[name] = option.read("true" if value is None else value)
            line.given.append(name)
        return line, topic

    def _read_words(self, line: Line) -> None:
        words = list(line.words)
        for name, _, count in self.words:
            if count in ("1", "+") and not words:
                raise ConfigError(f"{name}: is missing; usage: senet {self.command} {self.usage} [options]")
            if count in ("+", "*"):
                line.values[name], words = words, []
            else:
                line.values[name] = words.pop(0) if words else ""
        if words:
            raise ConfigError(f"{words[0]!r} is one word too many; usage: senet {self.command} {self.usage} [options]")

    def _set_fields(self, line: Line) -> None:
        """Find the field of each option that is not the command's own, and set them all."""
        known = dict(leaves(line.base))
        for name, text in line.fields:
            path, is_negated = self._resolve(name, known)
            if text is None:
                if known[path] is not bool:
                    raise ConfigError(f"--{path}: a value is missing")
                text = "false" if is_negated else "true"
            elif is_negated:
                raise ConfigError(f"--{name.replace('_', '-')}: takes no value, {text!r}")
            line.assignments.append(f"{path}={text}")
            line.named.append(path)
        line.config = override(line.base, *line.assignments)

    def _resolve(self, name: str, known: dict[str, Any]) -> tuple[str, bool]:
        """The path of the field that an option means, and whether it is `--no-` one."""
        for word, is_negated in ((name, False), (name.removeprefix("no_"), True)):
            if is_negated and word == name:
                break
            if f"{word}.name" in known:
                return f"{word}.name", is_negated
            found = [path for path in known if path == word or path.endswith(f".{word}")]
            if len(found) > 1:
                raise ConfigError(f"--{word}: could mean {' or '.join(f'--{p}' for p in found)}")
            if found and (not is_negated or known[found[0]] is bool):
                return found[0], is_negated
        section, _, _ = name.rpartition(".")
        inside = [p.rpartition(".")[2] for p in known if f".{p}".rpartition(".")[0].endswith(f".{section}")]
        if section and inside:
            raise no_field(name, inside)
        if section.endswith("se") and any(path.startswith("model.") for path in known):
            raise ConfigError(f"--{name}: has no effect, the network has no attention unit; choose one with --se")
        self._refuse(name, known)

    def _refuse(self, name: str, known: dict[str, Any]) -> NoReturn:
        """Raise the error for an unknown option, with the nearest one and where all are listed."""
        words = dict.fromkeys([*self.options, *(path.rpartition(".")[2] for path in known)])
        flag = name if name.startswith("-") else f"--{name.replace('_', '-')}"
        ours = ELSEWHERE.get(name)
        if ours and (ours in words or ours in known or f"{ours}.name" in known):
            raise ConfigError(f"option: {flag!r} is called --{ours.replace('_', '-')} here")
        raise unknown(
            "option",
            flag,
            [f"--{word.replace('_', '-')}" for word in words],
            kind="see",
            listing=f"senet {self.command} --help{' all' if self.base else ''}",
        )

    def _print_help(self, line: Line, topic: str) -> None:
        width = min(shutil.get_terminal_size((110, 24)).columns, 110)
        print(f"usage: senet {self.command} {self.usage} [options]\n\n{self.description}")
        if self.examples and not topic:
            print("\nexamples:\n" + "\n".join(f"  {example}" for example in self.examples))
        base = self._base_for_help(line)
        own = [o for o in self.options.values() if topic == "all" or not o.rare]
        if topic in ("", "all"):
            shown = [(name, help, "") for name, help, _ in self.words] + [_described(o) for o in own]
            values = dict(leaves(base)) if base is not None else {}
            if topic == "":
                shown += [_field_line(base, path, _short(path, values)) for path in self.common if path in values]
            print("\n" + _columns(shown, width))
        if base is not None and topic:
            _print_sections(base, topic, width)
        if base is not None and not topic:
            sections = dict.fromkeys(path.partition(".")[0] for path, _ in leaves(base))
            hints = ", ".join(f"--help {section}" for section in sections)
            print(f"\nEvery field is an option: --help all, or one section: {hints}")

    def _base_for_help(self, line: Line) -> Any:
        if self.base is None:
            return None
        try:
            return self.base(line)
        except ConfigError:
            # Help answers whatever else the line says.
            return self.base(Line(values={o.name: o.default for o in self.options.values()}))


def is_flag(name: str) -> bool:
    """Whether a field's option needs no value: `flip`, `data.flip`, `no_flip`."""
    last = name.rpartition(".")[2]
    return any(field_kinds().get(word) is bool for word in (last, last.removeprefix("no_")))


@cache
def field_kinds() -> dict[str, Any]:
    """Name of every field of any recipe, network or unit -> its type."""
    parts = [hint for hint in field_types(Recipe).values() if dataclasses.is_dataclass(hint)]
    classes = dict.fromkeys([*parts, *UnitConfig.kinds.values(), *Net.known().values()])
    return {name: hint for cls in classes for name, hint in field_types(cls).items()}  # type: ignore[arg-type]


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
    hidden += tuple(f"model.{name}" for name in OF_THE_DETECTOR)
    return [(p, h) for p, h in out if ".stem." not in p and p not in hidden]


def _is_table(hint: Any) -> bool:
    """Whether a type is that of a table's rows or of an attention unit, which no option sets as a whole."""
    return any(dataclasses.is_dataclass(a) or _is_table(a) for a in get_args(hint))


def value_at(config: Any, path: str) -> Any:
    """The value of a field by its path."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _print_sections(base: Any, topic: str, width: int) -> None:
    sections: dict[str, list[str]] = {}
    for path, _ in leaves(base):
        if topic == "all" or path.partition(".")[0] == topic:
            sections.setdefault(path.rpartition(".")[0], []).append(path)
    if not sections:
        raise unknown("--help", topic, dict.fromkeys(path.partition(".")[0] for path, _ in leaves(base)))
    for section, found in sections.items():
        title = next(iter((type(value_at(base, section)).__doc__ or "").splitlines()), "")
        print(f"\n--{section}.*: {title}\n" + _columns([_field_line(base, path, path) for path in found], width))


def _short(path: str, known: dict[str, Any]) -> str:
    """The shortest name that a field can be typed with: "epochs" for train.epochs, "data" for data.name."""
    section, _, last = path.rpartition(".")
    is_alone = sum(other.rpartition(".")[2] == last for other in known) == 1
    return section if last == "name" else last if is_alone else path


def _field_line(base: Any, path: str, typed: str) -> tuple[str, str, str]:
    section, _, name = path.rpartition(".")
    text = field_docs(type(value_at(base, section))).get(name, "")
    value = value_at(base, path)
    shown = str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, tuple):
        shown = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    return f"--{typed.replace('_', '-')}", text.rstrip("."), "" if shown in ("", None) else f"{shown}"


def _described(option: Option) -> tuple[str, str, str]:
    value = (
        "" if option.type is bool else f" {option.metavar or '|'.join(option.choices) or option.type.__name__.upper()}"
    )
    default = "" if option.type is bool or option.default in ("", None) else str(option.default)
    return f"{option.flag}{value}", option.help, default


def _columns(rows: Sequence[tuple[str, str, str]], width: int) -> str:
    """Options with their texts and defaults, in two columns."""
    left = min(max(len(name) for name, _, _ in rows), 30) + 4
    lines = []
    for name, help, default in rows:
        text = f"{help} (default: {default})" if default else help
        wrapped = textwrap.wrap(text, width - left) or [""]
        first = f"  {name}".ljust(left)
        if len(first) > left:
            lines.append(first)
            first = " " * left
        lines.append(first + wrapped[0])
        lines += [" " * left + more for more in wrapped[1:]]
    return "\n".join(lines)


def read_list(text: str) -> list[str]:
    """The names of an option's text, separated by commas; one that has a comma is in double quotes, as in CSV.

    >>> read_list('cat, "salt, pepper"')
    ['cat', 'salt, pepper']
    """
    (names,) = csv.reader([" ".join(text.splitlines())], skipinitialspace=True) if text.strip() else ([],)
    return [name.strip() for name in names if name.strip()]


def data_fields(line: Line) -> DataOnly:
    """The fields of the images that a command measures on, with the defaults of the digits."""
    return DataOnly(get_recipe("digits").data)


def with_data(recipe: Recipe, line: Line) -> Recipe:
    """A checkpoint's recipe with the fields of its images that the line names.

    Raises:
        ConfigError: a field without effect, or images of other channels than the network takes.
    """
    new = override(recipe, *line.assignments)
    check_effects(new, line.named)
    if new.data.channels != (channels := recipe.data.channels):
        raise ConfigError(
            f"data.mean: {new.data.mean!r} is for images of {new.data.channels} channels, and this network takes "
            f"{channels}; expected: {channels} number{'s' * (channels > 1)}, and as many for data.std"
        )
    return new
