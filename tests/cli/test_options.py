"""Guard 6: every recipe field can be set from the command line, and every wrong one fails by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import pytest

from senet import SEConfig, get_net
from senet.cli import main
from senet.cli.parse import Parser, leaves, value_at
from senet.config import to_dict
from senet.errors import ConfigError
from senet.recipes.recipe import Recipe
from senet.recipes.registry import labelled, recipe_for
from tests.models.small import FAMILIES

BASE = recipe_for("digits")
FIELDS = dict(leaves(BASE))

# Values that are legal only beside others are set with those others.
TOGETHER = {
    "optim.betas": ("0.8,0.9", ["--optim.kind", "adamw"]),
    "optim.layer_decay": ("0.5", []),
    "schedule.milestones": ("0.25,0.5", ["--schedule.kind", "step"]),
    "schedule.kind": ("plateau", []),
    "data.crop_scale": ("0.5,0.75", []),
    "data.crop_ratio": ("0.5,2", []),
    "data.mean": ("0.1,0.2,0.3", ["--std", "0.4,0.5,0.6"]),
    "data.std": ("0.4,0.5,0.6", ["--mean", "0.1,0.2,0.3"]),
    "model.se.stages": ("2,4", []),
    "model.se.placement": ("pre", []),
    "data.name": ("cifar10", []),
    "data.background": ("0", []),
    "data.pixel_range": ("0,4095", []),
    "data.scales": ("24,32", []),
}
WITH_BOTTLENECKS = {"model.first_1x1", "model.stride_on", "model.projection"}
WIDTHS = {"model.stem": "32,32,96", "model.stem_width": "12"}


def parse(*argv: str, base: Recipe = BASE) -> Recipe:
    parser = Parser("train", "[MODEL]", "test", base=lambda line: base)
    parser.option("se", help="unit")
    return parser.read(argv).config


def other_value(path: str, hint: Any, base: Recipe = BASE) -> str:
    """A legal value that is not the default, as text."""
    value = value_at(base, path)
    if get_origin(hint) is Literal:
        return next(str(v) for v in get_args(hint) if v != value)
    if hint is bool:
        return str(not value).lower()
    if hint is int:
        return str(value + 1)
    if hint is float:
        return str(value + 0.25 if value + 0.25 < 1 else value / 2)
    return "3,5" if get_origin(hint) is tuple and get_args(hint)[0] is int else "elsewhere"


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
    assert value_at(recipe, path) != value_at(base, path)
    others = {p for p in FIELDS if value_at(recipe, p) != value_at(base, p)} - {path}
    assert len(others) == len(beside) // 2, "setting one field changed others"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"basic", "bottleneck", "grouped", "senet154", "cifar"}))
def test_every_field_of_every_family_can_be_set(family: str) -> None:
    base = replace(BASE, model=replace(FAMILIES[family], se=SEConfig()))
    for path, hint in leaves(base):
        # A width must fit the groups, and a stage must exist; the families' own tests have those.
        if path.startswith("model.") and path not in ("model.groups", "model.se.stages", "model.se.placement"):
            recipe = parse(f"--{path}", WIDTHS.get(path) or other_value(path, hint, base), base=base)
            assert value_at(recipe, path) != value_at(base, path), path


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
    assert value_at(parse(*argv), path) == value


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-classes", "8"], r"option: '--num-classes' is not known.*; see: senet train --help all"),
        (
            ["--se.reductoin", "8"],
            r"se.reductoin: no field 'reductoin' \(did you mean 'reduction'\?\); fields: placement",
        ),
        (["--model.se.reductoin", "8"], r"model.se.reductoin: no field 'reductoin'.*; fields: placement, stages, red"),
        (["--lrr", "8"], r"option: '--lrr' is not known \(did you mean '--lr'\?\)"),
        (["--learning-rate", "0.1"], r"option: '--learning-rate' is called --lr here"),
        (["--optimizer", "adamw"], r"option: '--optimizer' is called --optim.kind here"),
        (["--epochs"], r"--train.epochs: a value is missing"),
        (["--epochs", "0"], r"train.epochs: 0 is too small; expected: 1 or more"),
        (["--se.stages", "7"], r"se.stages: 7 is not known; stages of this network: 2, 3, 4"),
        (["--schedule.kind", "step"], r"schedule.milestones: kind='step' needs at least one"),
        (["--flip=perhaps"], r"data.flip: 'perhaps' is not true or false"),
        (["--placement", "conv3x3"], r"se.placement: 'conv3x3' needs bottlenecks"),
        (["extra"], r"'extra' is one word too many"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*argv)


def test_an_option_without_effect_is_an_error() -> None:
    plain = recipe_for("digits", model="resnet20")
    with pytest.raises(ConfigError, match=r"--se.reduction: has no effect, the network has no attention unit"):
        parse("--se.reduction", "4", base=plain)


@pytest.mark.parametrize(
    ("argv", "words", "flip"),
    [
        (["a", "--flip", "b"], ["a", "b"], True),
        (["--flip", "false", "a"], ["a"], False),
        (["--lr", "0.1", "a", "--no-flip"], ["a"], False),
        (["--lr=0.1", "--data.flip=true", "a", "b"], ["a", "b"], True),
    ],
)
def test_words_and_options_in_any_order(argv: list[str], words: list[str], flip: bool) -> None:
    parser = Parser("compare", "MODEL...", "test", base=lambda line: BASE)
    parser.word("MODEL", help="networks", count="*")
    line = parser.read(argv)
    assert (line["MODEL"], line.config.data.flip) == (words, flip)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rounds", "x", "a"], r"--rounds: 'x' is not a whole number"),
        (["--rounds", "0", "a"], r"--rounds: 0 is too small; expected: 1 or more"),
        (["--rounds"], r"--rounds: a value is missing"),
        (["--kind", "tri", "a"], r"--kind: 'tri' is not known; expected: one, two"),
        (["--fast=perhaps", "a"], r"--fast: 'perhaps' is not true or false"),
        (
            ["--round", "1", "a"],
            r"'--round' is not known \(did you mean '--rounds'\?\); see: senet test --help",
        ),
        (["-x", "a"], r"option: '-x' is not known"),
        ([], r"FILE: is missing; usage: senet test FILE \[options\]"),
        (["a", "b"], r"'b' is one word too many; usage: senet test FILE"),
    ],
)
def test_a_commands_own_options(argv: list[str], message: str) -> None:
    parser = Parser("test", "FILE", "test")
    parser.word("FILE", help="a file")
    parser.option("rounds", help="how many", type=int, default=3, low=1)
    parser.option("kind", help="which", default="one", choices=("one", "two"))
    parser.switch("fast", help="fast")
    line = parser.read(["a", "--rounds=2", "--kind", "two", "--fast"])
    assert (line["FILE"], line["rounds"], line["kind"], line["fast"]) == ("a", 2, "two", True)
    with pytest.raises(ConfigError, match=message):
        parser.read(argv)


def test_help_is_short_and_has_the_rest_by_section(capsys: pytest.CaptureFixture[str]) -> None:
    def help_of(*argv: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([*argv])
        assert stop.value.code == 0
        return capsys.readouterr().out

    short, section, everything = (help_of("train", "--help", *more) for more in ([], ["optim"], ["all"]))
    assert short.count("\n  senet ") == 3
    assert "--epochs" in short
    assert "--optim.clip_norm" not in short
    assert "--help optim" in short
    assert len(short.splitlines()) < 50
    assert "--optim.clip-norm" in section
    assert "--data.crop" not in section
    assert all(f"--{path.replace('_', '-')} " in everything for path in FIELDS)


def test_units_by_name() -> None:
    eca = labelled(BASE, "eca")
    assert eca.model.se is not None
    assert (eca.name, eca.model.se.kind) == ("se_resnet20+eca", "eca")
    assert labelled(BASE, "se") == BASE
    assert labelled(BASE, "none").model == replace(BASE.model, se=None)
    with pytest.raises(
        ConfigError, match=r"model.se: 'ecca' is not known \(did you mean 'eca'\?\); expected: none, se"
    ):
        labelled(BASE, "ecca")
