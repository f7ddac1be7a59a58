"""Guard 6: every recipe field can be set from the command line, and every wrong one fails by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import pytest

from senet import SEConfig, get_net
from senet.cli import COMMANDS, main, options
from senet.cli.line import SWITCHES
from senet.config import to_dict
from senet.errors import ConfigError
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from tests.models.small import FAMILIES

BASE = recipe_for("digits")
FIELDS = dict(options.leaves(BASE))

# Values that are legal only beside others are set with those others.
TOGETHER = {
    "schedule.milestones": ("0.25,0.5", ["--kind", "step"]),
    "schedule.kind": ("plateau", []),
    "data.crop_scale": ("0.5,0.75", []),
    "data.crop_ratio": ("0.5,2", []),
    "data.mean": ("1,2,3", ["--std", "4,5,6"]),
    "data.std": ("4,5,6", ["--mean", "1,2,3"]),
    "model.se.stages": ("2,4", []),
    "model.se.placement": ("pre", []),
    "data.name": ("cifar10", []),
}
WITH_BOTTLENECKS = {"model.first_1x1", "model.stride_on", "model.projection"}
WIDTHS = {"model.stem": "32,32,96", "model.stem_width": "12"}


def parse(*argv: str, base: Recipe = BASE) -> Recipe:
    parser = options.Parser("train", "[MODEL]", "test")
    parser.option("se", default="")
    options.add_fields(parser, base)
    return options.apply(base, parser.read(list(argv), base)["fields"])


def other_value(path: str, hint: Any, base: Recipe = BASE) -> str:
    """A legal value that is not the default, as text."""
    value = options.value_at(base, path)
    if get_origin(hint) is Literal:
        return next(str(v) for v in get_args(hint) if v != value)
    if hint is bool:
        return str(not value).lower()
    if hint is int:
        return str(value + 1)
    if hint is float:
        return str(value + 0.25 if value + 0.25 < 1 else value / 2)
    return "elsewhere"


def test_there_are_the_fields_we_think_there_are() -> None:
    sections = {path.partition(".")[0] for path in FIELDS}
    assert sections == {"model", "data", "optim", "schedule", "train"}
    assert len(FIELDS) > 55
    written = to_dict(BASE)
    for path in FIELDS:
        value: Any = written
        for name in path.split("."):
            value = value[name]


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_can_be_set(path: str) -> None:
    text, beside = TOGETHER.get(path, (other_value(path, FIELDS[path]), []))
    base = replace(BASE, model=get_net("se_resnet50")) if path in WITH_BOTTLENECKS else BASE
    recipe = parse(f"--{path}", text, *beside, base=base)
    assert options.value_at(recipe, path) != options.value_at(base, path)
    others = {p for p in FIELDS if options.value_at(recipe, p) != options.value_at(base, p)} - {path}
    assert len(others) == len(beside) // 2, "setting one field changed others"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"basic", "bottleneck", "grouped", "senet154", "cifar"}))
def test_every_field_of_every_family_can_be_set(family: str) -> None:
    base = replace(BASE, model=replace(FAMILIES[family], se=SEConfig()))
    for path, hint in options.leaves(base):
        # A width must fit the groups, and a stage must exist; the families' own tests have those.
        if path.startswith("model.") and path not in ("model.groups", "model.se.stages", "model.se.placement"):
            recipe = parse(f"--{path}", WIDTHS.get(path) or other_value(path, hint, base), base=base)
            assert options.value_at(recipe, path) != options.value_at(base, path), path


@pytest.mark.parametrize("path", [p for p, h in FIELDS.items() if h is not str])
def test_every_field_refuses_a_wrong_value_by_name(path: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{path}.*'?nonsense"):
        parse(f"--{path}=nonsense")


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_with_a_letter_missing_is_refused(path: str) -> None:
    wrong = path[:-1] + ("x" if path[-1] != "x" else "y")
    with pytest.raises(ConfigError, match=r"no field|is not known"):
        parse(f"--{wrong}=1")


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (["--lr", "0.25"], "optim.lr", 0.25),
        (["--batch-size", "32"], "data.batch_size", 32),
        (["--batch_size=32"], "data.batch_size", 32),
        (["--data", "cifar10"], "data.name", "cifar10"),
        (["--se.reduction", "4"], "model.se.reduction", 4),
        (["--reduction", "4"], "model.se.reduction", 4),
        (["--flip"], "data.flip", True),
        (["--flip", "--lr", "0.3"], "data.flip", True),
        (["--no-nesterov"], "optim.nesterov", False),
        (["--no-bias"], "model.se.bias", False),
        (["--stages", "2,3"], "model.se.stages", (2, 3)),
        (["--stages", "[2]"], "model.se.stages", (2,)),
        (["--stages", "null"], "model.se.stages", None),
    ],
)
def test_short_forms(argv: list[str], path: str, value: Any) -> None:
    assert options.value_at(parse(*argv), path) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-classes", "8"], r"option: '--num_classes' is not known"),
        (
            ["--se.reductoin", "8"],
            r"se.reductoin: no field 'reductoin' \(did you mean 'reduction'\?\); fields: placement",
        ),
        (["--model.se.reductoin", "8"], r"model.se.reductoin: no field 'reductoin'.*; fields: placement, stages, red"),
        (["--lrr", "8"], r"option: '--lrr' is not known \(did you mean '--lr'\?\)"),
        (["--epochs"], r"--train.epochs: a value is missing"),
        (["--epochs", "0"], r"train.epochs: 0 is too small; expected: 1 or more"),
        (["--se.stages", "7"], r"se.stages: 7 is not known; stages of this network: 2, 3, 4"),
        (["--kind", "step"], r"schedule.milestones: kind='step' needs at least one"),
        (["--flip=perhaps"], r"data.flip: 'perhaps' is not true or false"),
        (["--placement", "conv3x3"], r"se.placement: 'conv3x3' needs bottlenecks"),
        (["extra"], r"unrecognized arguments: extra"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


def test_an_option_without_effect_is_an_error() -> None:
    plain = recipe_for("digits", model="resnet20")
    with pytest.raises(ConfigError, match=r"--se.reduction: has no effect, the network has no attention unit"):
        parse("--se.reduction", "4", base=plain)


def test_field_docs_cover_every_field() -> None:
    missing = []
    for path in FIELDS:
        section = path.rpartition(".")[0]
        name = path.rpartition(".")[2]
        if name not in options.field_docs(type(options.value_at(BASE, section))):
            missing.append(path)
    assert missing == []


def test_switches_are_those_of_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first look at a line takes for a switch is one for the command's own parser, and the other way round."""
    found: dict[str, bool] = {"help": True}
    option = options.Parser.option

    def see(parser: options.Parser, name: str, **kwargs: Any) -> None:
        is_switch = kwargs.get("action") == "store_true"
        assert found.setdefault(name, is_switch) == is_switch, name
        option(parser, name, **kwargs)

    monkeypatch.setattr(options.Parser, "option", see)
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
    fields = [dict(options.leaves(replace(BASE, model=net))) for net in (BASE.model, *FAMILIES.values())]
    hints = {path.rpartition(".")[2]: hint for of in fields for path, hint in of.items()}
    found = {name: hint is bool for name, hint in hints.items()} | found
    assert {name for name, is_switch in found.items() if is_switch} == SWITCHES


def test_units_by_name() -> None:
    eca = options.labelled(BASE, "eca")
    assert eca.model.se is not None
    assert (eca.name, eca.model.se.kind) == ("se_resnet20+eca", "eca")
    assert options.labelled(BASE, "se") == BASE
    assert options.labelled(BASE, "none").model == replace(BASE.model, se=None)
    with pytest.raises(
        ConfigError, match=r"model.se: 'ecca' is not known \(did you mean 'eca'\?\); expected: none, se"
    ):
        options.labelled(BASE, "ecca")
