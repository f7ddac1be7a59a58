"""Configs as plain frozen values: written down, read back, overridden; every mistake named with what is legal."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

import senet.config
from senet import (
    ConfigError,
    ECAConfig,
    Net,
    NoSqueezeConfig,
    Recipe,
    SEConfig,
    SharedConfig,
    UnitConfig,
    from_dict,
    get_net,
    override,
    to_dict,
)
from senet.config import Kind, check_at_least, check_concrete, check_types, field_types, named_values
from senet.recipes.registry import get_recipe, recipes
from senet.units.config import ReducingConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A config in a config."""

    size: int = 1
    choice: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least(self, 1, "size")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """One field of every type that a config may have."""

    whole: int = 0
    number: float = 0.5
    flag: bool = False
    text: str = "x"
    many: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.0, 1.0)
    maybe: int | None = None
    anything: Any = None
    inner: Inner = field(default_factory=Inner)
    rows: tuple[Inner, ...] = ()
    needed: str

    def __post_init__(self) -> None:
        check_types(self)


FULL = Outer(
    whole=3,
    number=2,
    flag=True,
    many=(1, 2),
    pair=(0.25, 1),
    maybe=7,
    anything=[1],
    inner=Inner(size=2),
    rows=(Inner(), Inner(choice="b")),
    needed="y",
)


def test_plain_values_survive_json() -> None:
    written = json.loads(json.dumps(to_dict(FULL)))
    assert written["rows"] == [{"size": 1, "choice": "a"}, {"size": 1, "choice": "b"}]
    assert from_dict(Outer, written) == FULL


def test_absent_fields_take_their_defaults() -> None:
    assert from_dict(Outer, {"needed": "y"}) == Outer(needed="y")
    with pytest.raises(ConfigError, match="Outer: the field 'needed' is missing"):
        from_dict(Outer, {"whole": 1})
    with pytest.raises(ConfigError, match=r"a.b: the field 'needed' is missing"):
        from_dict(Outer, {}, path="a.b")


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_survives_json(name: str) -> None:
    recipe = get_recipe(name)
    again = from_dict(Recipe, json.loads(json.dumps(to_dict(recipe))))
    assert again == recipe
    assert type(again.model) is type(recipe.model)
    assert to_dict(again) == to_dict(recipe)


@pytest.mark.parametrize(
    "unit",
    [
        None,
        SEConfig(reduction=8, bias=False, stages=(2, 3)),
        NoSqueezeConfig(gate="tanh"),
        ECAConfig(kernel=5, placement="pre"),
        SharedConfig(groups=4, squeeze="max"),
    ],
)
def test_every_kind_of_unit_survives_within_a_network(unit: UnitConfig | None) -> None:
    net = replace(get_net("resnet20"), se=unit)
    again = from_dict(Net, json.loads(json.dumps(to_dict(net))))
    assert again == net
    assert type(again.se) is type(unit)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("whole=4", "whole", 4),
        ("number=4", "number", 4.0),
        ("number=1e-3", "number", 1e-3),
        ("flag=true", "flag", True),
        ("text=8", "text", "8"),
        ('text="8"', "text", '"8"'),
        ("text=a=b", "text", "a=b"),
        ("text=", "text", ""),
        ("many=[3,4]", "many", (3, 4)),
        ("many=[]", "many", ()),
        ("pair=[0.5,2]", "pair", (0.5, 2.0)),
        ("maybe=null", "maybe", None),
        ("maybe=3", "maybe", 3),
        ("inner.size=9", "inner.size", 9),
        ('inner={"size":3}', "inner", Inner(size=3)),
        ('rows=[{"choice":"b"}]', "rows", (Inner(choice="b"),)),
        ("anything={}", "anything", {}),
    ],
)
def test_override(assignment: str, path: str, value: Any) -> None:
    before = to_dict(FULL)
    found: Any = override(FULL, assignment)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert to_dict(FULL) == before


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("whole", "'whole' is not an assignment such as 'train.epochs=10'"),
        ("whole=1.5", "whole: '1.5' is not a whole number"),
        ("whole=true", "whole: 'true' is not a whole number"),
        ("whole=x", "whole: 'x' is not a whole number"),
        ("whole=null", "whole: 'null' is not a whole number"),
        ("number=true", "number: 'true' is not a number"),
        ("number=NaN", "number: nan is not a finite number"),
        ("number=1e999", "number: inf is not a finite number"),
        ("pair=[0,-Infinity]", r"pair\[1\]: -inf is not a finite number"),
        ("number=fast", "number: 'fast' is not a number"),
        ("flag=1", "flag: '1' is not true or false"),
        ("flag=yes", "flag: 'yes' is not true or false"),
        ("many=[1,2.5]", r"many\[1\]: '2.5' is not a whole number"),
        ("pair=[1]", r"pair: \[1\] must have 2 entries"),
        ("pair=[1,2,3]", r"pair: \[1, 2, 3\] must have 2 entries"),
        ("maybe=x", "maybe: 'x' is not a whole number"),
        ("inner=3", "inner: '3' is not a mapping of fields"),
        ("inner.choice=c", "inner.choice: 'c' is not known; expected: a, b"),
        ("inner.size=0", "inner.size: 0 is too small; expected: 1 or more"),
        ("inner.siz=3", r"inner.siz: no field 'siz' \(did you mean 'size'\?\); fields: size, choice"),
        ("maybe.x=3", "maybe: is 7 and has no fields; cannot set 'x'"),
        ("zzz=3", "zzz: no field 'zzz'; fields: whole, number, flag"),
        ('rows=[{"size":1},{"size":"x"}]', r"rows\[1\].size: 'x' is not a whole number"),
        ('rows=[{"size":0}]', r"rows\[0\].size: 0 is too small"),
        ('inner={"siz":3}', "inner.siz: no field 'siz'"),
    ],
)
def test_override_names_field_value_and_what_is_legal(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        override(FULL, assignment)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.se.reductoin=8", r"model.se.reductoin: no field 'reductoin' \(did you mean 'reduction'\?\); fields: "),
        ("model.se.reduction=0", "model.se.reduction: 0 is too small; expected: 1 or more"),
        ("model.se.reduction=eight", "model.se.reduction: 'eight' is not a whole number"),
        ("model.se.stages=[9]", "model.se.stages: 9 is not known; stages of this network: 2, 3, 4"),
        ("model.se.placement=conv3x3", "model.se.placement: 'conv3x3' needs bottlenecks"),
        ('model.se={"unit":"cbam"}', "model.se.unit: 'cbam' is not known; expected: se, no_squeeze, eca, shared"),
        ('model={"family":"vit"}', "model.family: 'vit' is not known; expected: residual"),
        ("model.stages=[]", "model.stages: "),
        ("train.epochs=0", "train.epochs: 0 is too small; expected: 1 or more"),
        ("schedule.kind=stp", r"schedule.kind: 'stp' is not known \(did you mean 'step'\?\); expected: constant, "),
        ("data.mean=[1,2]", r"data.mean, std: 2 and 1 numbers, \(1.0, 2.0\) and .*; expected: 1 each for grey images"),
        ("optim.lr=-1", "optim.lr: -1.0 is too small; expected: above 0"),
        ("optim.lr=NaN", "optim.lr: nan is not a finite number"),
        ("optim.lr=Infinity", "optim.lr: inf is not a finite number"),
        ("model.dropout=NaN", "model.dropout: nan is not a finite number"),
    ],
)
def test_override_within_a_recipe(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        override(get_recipe("digits"), assignment)


def test_override_within_a_recipe_takes() -> None:
    recipe = override(get_recipe("digits"), "model.se.reduction=8")
    assert recipe.model.se == SEConfig(reduction=8)
    assert override(recipe, "model.se=null").model == get_net("resnet20")
    assert override(recipe, 'model.se={"unit":"eca","kernel":3}').model.se == ECAConfig(kernel=3)
    # Without a kind a unit's own stays what the field's type says, which is abstract.
    with pytest.raises(ConfigError, match=r"model.se.unit: None is not known; expected: se, no_squeeze"):
        override(recipe, 'model.se={"reduction":8}')


def test_configs_are_frozen_and_hashable() -> None:
    for config in (FULL.inner, SEConfig(), get_net("se_resnet50"), get_recipe("cifar10"), get_recipe("cifar10").data):
        assert isinstance(hash(config), int)
        with pytest.raises(FrozenInstanceError):
            config.reduction = 3
    with pytest.raises(TypeError, match="positional argument"):
        SEConfig(8)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"whole": "3"}, "whole: '3' is not a whole number"),
        ({"whole": True}, "whole: True is not a whole number"),
        ({"many": [1]}, r"many: \[1\] is not a tuple"),
        ({"many": ("1",)}, r"many\[0\]: '1' is not a whole number"),
        ({"pair": (1.0,)}, r"pair: \(1.0,\) must have 2 entries"),
        ({"inner": {"size": 1}}, "inner: {'size': 1} is not a Inner"),
        ({"rows": (None,)}, r"rows\[0\]: None is not a Inner"),
        ({"text": None}, "text: None is not a string"),
        ({"flag": 0}, "flag: 0 is not true or false"),
        ({"inner": None}, "inner: None is not a Inner"),
        ({"number": float("nan")}, "number: nan is not a finite number"),
        ({"pair": (0.0, float("inf"))}, r"pair\[1\]: inf is not a finite number"),
    ],
    ids=str,
)
def test_types_are_checked_at_construction(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        Outer(**{"needed": "y", **fields})


def test_whole_numbers_are_numbers() -> None:
    assert Outer(needed="y", number=1).number == 1
    assert from_dict(Outer, {"needed": "y", "number": 1}) == Outer(needed="y", number=1.0)


@pytest.mark.parametrize("data", [3, None, "text", [1]])
def test_only_mappings_are_configs(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"Outer: .* is not a mapping of fields"):
        from_dict(Outer, data)


def test_from_dict_leaves_its_data_alone() -> None:
    data = to_dict(SEConfig())
    before = json.dumps(data)
    from_dict(UnitConfig, data)
    assert json.dumps(data) == before


def test_a_kind_needs_no_name_where_the_class_is_known() -> None:
    assert from_dict(SEConfig, {"reduction": 8}) == SEConfig(reduction=8)
    assert from_dict(UnitConfig, {"unit": "eca"}) == ECAConfig()
    with pytest.raises(ConfigError, match=r"unit: None is not known; expected: se, no_squeeze, eca, shared"):
        from_dict(UnitConfig, {"reduction": 8})
    with pytest.raises(ConfigError, match=r"x.unit: 'SE' is not known"):
        from_dict(UnitConfig, {"unit": "SE"}, path="x")
    # YAML has keys and names that are no strings.
    with pytest.raises(ConfigError, match=r"unit: \['se'\] is not known"):
        from_dict(UnitConfig, {"unit": ["se"]})
    with pytest.raises(ConfigError, match=r"^x.3: no field '3'"):
        from_dict(SEConfig, {3: 8}, path="x")


def test_check_at_least() -> None:
    check_at_least(Inner(size=5), 5, "size")
    with pytest.raises(ConfigError, match=r"^size: 5 is too small; expected: 6 or more$"):
        check_at_least(Inner(size=5), 6, "size")
    with pytest.raises(ConfigError, match=r"expected: 5.5 or more$"):
        check_at_least(Inner(size=5), 5.5, "size")
    with pytest.raises(ConfigError, match=r"^rows\[2\].size: 5 is too small"):
        check_at_least(Inner(size=5), 6, "size", path="rows[2]")

    class Unchecked:
        size = float("nan")

    with pytest.raises(ConfigError, match=r"^size: nan is too small"):
        check_at_least(Unchecked(), 0, "size")


def test_an_abstract_config_is_no_value() -> None:
    for concrete in (SEConfig(), None, 3):
        check_concrete("x", concrete)
    for abstract in (UnitConfig(), ReducingConfig()):
        message = f"{type(abstract).__name__} is abstract; expected: SEConfig, NoSqueezeConfig, ECAConfig, Shared"
        with pytest.raises(ConfigError, match=f"^x: {message}"):
            check_concrete("x", abstract)
        with pytest.raises(ConfigError, match=f"^se: {message}"):
            replace(get_net("resnet20"), se=abstract)
    with pytest.raises(ConfigError, match=r"^model: Net is abstract; expected: ResidualNet, .*ShakeNet"):
        replace(get_recipe("digits"), model=Net.__new__(Net))


def test_named_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shelf_of_tests"
    folder.mkdir()
    (folder / "one.py").write_text("b, text, a = 2, 'x', 1\n")
    (folder / "two.py").write_text("c = 3\n")
    (folder / "three.py").write_text("a = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = named_values("shelf_of_tests", ("two", "one"), int)
    assert list(found.items()) == [("c", 3), ("b", 2), ("a", 1)]
    with pytest.raises(ConfigError, match=r"^three.py: a second int is called 'a'$"):
        named_values("shelf_of_tests", ("one", "three"), int)


def test_field_types() -> None:
    assert list(field_types(NoSqueezeConfig)) == ["placement", "stages", "reduction", "gate", "bias"]
    assert list(field_types(SEConfig)) == ["placement", "stages", "reduction", "squeeze", "gate", "bias", "round_to"]
    assert field_types(SEConfig)["reduction"] is int


def test_kinds_are_told_apart_by_family() -> None:
    assert issubclass(UnitConfig, Kind)
    assert UnitConfig.key == "unit"
    assert Net.key == "family"
    assert set(UnitConfig.kinds) & set(Net.kinds) == set()


def test_every_config_says_what_its_fields_are() -> None:
    """A field that its class's docstring, or a base's, does not name is one nobody can use."""
    recipe = get_recipe("digits")
    classes = [type(c) for c in (recipe, recipe.data, recipe.optim, recipe.schedule, recipe.train, recipe.model)]
    for cls in [*classes, *UnitConfig.kinds.values()]:
        text = " ".join(base.__doc__ or "" for base in cls.__mro__)
        undocumented = [name for name in field_types(cls) if f"{name}:" not in text and f"{name}, " not in text]
        # A network's rows are told by `Stem` and `Stage`; a recipe's parts by their own classes.
        assert set(undocumented) <= {"stem", "stages", "data", "optim", "schedule", "train"}, cls
    assert senet.config.__doc__
