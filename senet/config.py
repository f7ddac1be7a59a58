"""Plain frozen values: how senet's configs are checked, written down, read back and overridden.

A config is a frozen, keyword-only dataclass of numbers, strings, tuples and other configs. Nothing here
imports torch, so a command line can refuse a wrong value before a library is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from senet.errors import ConfigError, unknown

if TYPE_CHECKING:
    from torch import nn

Placement = Literal["standard", "pre", "post", "identity", "identity_before", "conv3x3"]
"""Where a unit sits in a residual block: Figure 5 of arXiv:1709.01507v4 and Table 14.

standard         on the residual branch, before the sum (the paper's SE block)
pre              on the input of the residual branch; the shortcut is not gated
post             after the sum and its ReLU
identity         on the shortcut, after its projection if there is one
identity_before  on the shortcut, before its projection (the other reading of the paper's SE-Identity)
conv3x3          inside the branch, after the ReLU of the 3x3 convolution (bottlenecks only)
"""

C = TypeVar("C")


class Kind:
    """A family of configs told apart by a name, so that a written config says what it is.

    A subclass names its key once, `class UnitConfig(Kind, key="unit")`, and each member its value,
    `class SEConfig(UnitConfig, kind="se")`.
    """

    key: ClassVar[str]
    kind: ClassVar[str]
    kinds: ClassVar[dict[str, type[Any]]]

    def __init_subclass__(cls, *, key: str | None = None, kind: str | None = None) -> None:
        super().__init_subclass__()
        if key is not None:
            cls.key, cls.kinds = key, {}
        if kind is not None:
            # `dataclass(slots=True)` makes a class twice; anything else under a taken name is a mistake.
            taken = cls.kinds.get(kind)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(f"{cls.key}: the name {kind!r} is taken by {taken.__module__}.{taken.__qualname__}")
            cls.kind, cls.kinds[kind] = kind, cls

    @classmethod
    def known(cls) -> dict[str, type[Any]]:
        """Every kind by its name; a family whose members are in files not yet imported imports them here."""
        return cls.kinds


@dataclass(frozen=True, kw_only=True)
class UnitConfig(Kind, key="unit"):
    """The fields of every attention unit: its place in the block, and the stages that get one.

    Attributes:
        placement: One of `Placement`; only residual blocks have others than "standard".
        stages: Numbers of the stages that get the unit, counted as in the paper (conv2_x is 2, the stem 1), for example
            (2, 3, 4). None for every stage.

    Raises:
        ConfigError: For another placement or stages that do not exist.
    """

    placement: Placement = "standard"
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.stages is not None and (not self.stages or len(set(self.stages)) < len(self.stages)):
            raise ConfigError(
                f"stages: {self.stages!r} must name at least one stage, each once; for no unit at all use se=None"
            )

    def summary(self, channels: int) -> str:
        """A few words for tables such as the paper's Table 1; by default the kind."""
        return self.kind

    def build(self, channels: int) -> nn.Module:
        """Build the unit for `channels` channels: a module `(N, C, *) -> (N, C, *)`, its weights not yet drawn."""
        raise NotImplementedError  # abstract: every kind of unit builds its own

    def cost(self, channels: int, positions: int) -> tuple[int, int]:
        """Count the unit's parameters, and its multiply-adds for one image.

        Args:
            channels: Channels of the feature map.
            positions: Its height times its width.
        """
        raise NotImplementedError  # abstract: every kind of unit counts its own


def check_at_least(config: object, low: float, *names: str, path: str = "") -> None:
    """Raise ConfigError unless each named field is at least `low`.

    path: how error messages name `config`, for example "stages[1]".
    """
    for name in names:
        value = getattr(config, name)
        # Not `value < low`, which is false of nan.
        if not value >= low:
            raise ConfigError(f"{_join(path, name)}: {value!r} is too small; expected: {low:g} or more")


def check_at_most(config: object, high: int, *names: str) -> None:
    """Raise ConfigError unless each named field is at most `high`."""
    for name in names:
        value = getattr(config, name)
        if value > high:
            raise ConfigError(f"{name}: {value!r} is too large; expected: at most {high:,}")


def check_concrete(path: str, value: object) -> None:
    """Raise ConfigError for an abstract class of configs, such as `UnitConfig()`, naming the concrete ones."""
    if isinstance(value, Kind) and not hasattr(value, "kind"):
        names = ", ".join(cls.__name__ for cls in value.known().values())
        raise ConfigError(f"{path}: {type(value).__name__} is abstract; expected: {names}")


def check_types(config: Any) -> None:
    """Raise ConfigError where a field's value does not have the field's declared type."""
    for name, hint in field_types(type(config)).items():
        _read(hint, getattr(config, name), name, strict=True)


@cache
def field_types(cls: type[Any]) -> dict[str, Any]:
    """Field name -> declared type, of a config class, in order."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists, numbers, strings and None, ready for JSON or YAML; `from_dict` reads it back.

    >>> from senet import ECAConfig
    >>> to_dict(ECAConfig(stages=(2, 3)))["unit"]
    'eca'
    """
    out: dict[str, Any] = {config.key: config.kind} if isinstance(config, Kind) else {}
    return out | {name: _plain(getattr(config, name)) for name in field_types(type(config))}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def from_dict(cls: type[C], data: Any, *, path: str = "") -> C:
    """The config that `to_dict` wrote. Absent fields take their defaults.

    path: how error messages name `data`, for example "model.se".

    Raises ConfigError for an unknown field or a value of the wrong type, naming the path, the value and
    what was expected.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{path or cls.__name__}: {data!r} is not a mapping of fields")
    data = dict(data)
    if issubclass(cls, Kind):
        name, known = data.pop(cls.key, getattr(cls, "kind", None)), cls.known()
        if name not in list(known):
            raise unknown(_join(path, cls.key), name, known)
        cls = known[name]
    types_ = field_types(cls)
    for name in data:
        if name not in types_:
            raise no_field(_join(path, str(name)), types_)
    values = {name: _read(types_[name], value, _join(path, name)) for name, value in data.items()}
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in values and _required(f)]  # type: ignore[arg-type]
    if missing:
        raise ConfigError(f"{path or cls.__name__}: the field {missing[0]!r} is missing")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(_join(path, str(error))) from None


def override(config: C, *assignments: str) -> C:
    """A copy of a config with fields set from texts such as `"model.se.reduction=8"`.

    Each text is read as the field's type: `true` or `false`, numbers, `0.5,0.75` or `[0.5, 0.75]` for a tuple, `none`
    for None, and a unit by its kind, `model.se=eca`. All fields are set at once, so that those which only fit together
    can be changed together.

    Raises:
        ConfigError: an unknown field or a wrong value, naming the path, the value and what was expected.

    >>> from senet import SEConfig
    >>> override(SEConfig(), "reduction=8").reduction
    8
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep:
            raise ConfigError(f"{assignment!r} is not an assignment such as 'train.epochs=10'")
        *outer, last = path.split(".")
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = text
    return _set(config, tree, "")


def _set(config: Any, tree: dict[str, Any], path: str) -> Any:
    types_, new = field_types(type(config)), {}
    for name, value in tree.items():
        here = _join(path, name)
        if name not in types_:
            raise no_field(here, types_)
        if isinstance(value, dict):
            inner = getattr(config, name)
            if not dataclasses.is_dataclass(inner):
                raise ConfigError(f"{here}: is {inner!r} and has no fields; cannot set {next(iter(value))!r}")
            new[name] = _set(inner, value, here)
        else:
            new[name] = _read(types_[name], _from_text(types_[name], value, here), here)
    try:
        return dataclasses.replace(config, **new)
    except ConfigError as error:
        # The config that refuses may already have named a field further in.
        raise ConfigError(_join(path, str(error))) from None


def _from_text(hint: Any, text: str, path: str) -> Any:
    """The plain value that a text means for a type."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or text.startswith(("{", "[{")):
        # A whole config, or rows of a table.
        try:
            return json.loads(text)
        except ValueError:
            return text
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null") and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _from_text(inner, text, path)
    if origin is tuple:
        items = [item.strip() for item in text.strip("[]() ").split(",")]
        return [
            _from_text(args[min(i, len(args) - 1) if args[-1] is not Ellipsis else 0], item, path)
            for i, item in enumerate(items)
            if item
        ]
    if origin is Literal:
        return next((value for value in args if str(value) == text), text)
    if isinstance(hint, type) and issubclass(hint, Kind):
        if text not in list(hint.known()):
            raise unknown(path, text, ["none", *hint.known()])
        return {hint.key: text}
    if hint is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    for number in (int, float):
        if hint is number or hint is float:
            try:
                return number(text)
            except ValueError:
                continue
    return text


@cache
def field_docs(cls: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each field, by the field's name.

    Read from its section `Attributes:`, or from lines `name: text`, `a, b: text`.
    """
    docs: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        text = re.sub(r"\n {4}", "\n", part.__doc__ or "")
        _, has_section, section = text.partition("\nAttributes:\n")
        if has_section:
            section = re.split(r"\n(?=\S)", section)[0]
            pieces = re.split(r"(?:^|\n) {4}(?=\w+: )", section)
        else:
            pieces = re.split(r"(?:\n|  )(?=(?:\w+, )*\w+: )", re.sub(r"\n +", "\n", text))
        for piece in pieces[1:]:
            names, _, rest = piece.partition(": ")
            for name in names.split(", "):
                docs[name] = " ".join(rest.split("\n\n")[0].split())
    return docs


def no_field(path: str, fields: Any) -> ConfigError:
    """The error for a field that does not exist: `model.se.reductoin: no field 'reductoin'; fields: ...`."""
    return unknown(path, path.rpartition(".")[2], fields, kind="fields", says="no field {!r}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def _read(hint: Any, value: Any, path: str, *, strict: bool = False) -> Any:
    """`value` as an object of the type `hint`; strict: it must be one already, lists and mappings are not turned."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _read(inner, value, path, strict=strict)
    if origin is Literal:
        if value not in args:
            raise unknown(path, value, args)
        return value
    if origin is tuple:
        if not isinstance(value, tuple if strict else (tuple, list)):
            raise ConfigError(f"{path}: {value!r} is not a {'tuple' if strict else 'list'}")
        if args[-1] is Ellipsis:
            return tuple(_read(args[0], v, f"{path}[{i}]", strict=strict) for i, v in enumerate(value))
        if len(value) != len(args):
            raise ConfigError(f"{path}: {value!r} must have {len(args)} entries")
        return tuple(
            _read(a, v, f"{path}[{i}]", strict=strict) for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: {value!r} is not a mapping of names to values")
        return {str(n): _read(args[1], v, _join(path, str(n)), strict=strict) for n, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            check_concrete(path, value)
            return value
        if strict:
            raise ConfigError(f"{path}: {value!r} is not a {getattr(hint, '__name__', hint)}")
        return from_dict(hint, value, path=path)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value if strict else float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path}: {value!r} is not {_NAMES.get(hint, hint)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: {value!r} is not a finite number")
    return value


def named_values(package: str, files: Iterable[str], cls: type[C]) -> dict[str, C]:
    """Every variable of type `cls` in these files of a package, by its name, in the order of the files.

    Raises ConfigError for a name that two files use.
    """
    found: dict[str, C] = {}
    for file in files:
        for name, value in vars(import_module(f"{package}.{file}")).items():
            if isinstance(value, cls):
                if name in found:
                    raise ConfigError(f"{file}.py: a second {cls.__name__} is called {name!r}")
                found[name] = value
    return found
