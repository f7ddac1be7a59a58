"""Guard 3: the names of `senet` are those it declares, and its networks those the documentation lists."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import senet

ROOT = Path(senet.__file__).parent
TABLE = ROOT.parent / "docs" / "reference" / "networks.md"


def declared() -> dict[str, str]:
    """Name -> module, of the TYPE_CHECKING block that type checkers and editors read."""
    found = {}
    for node in ast.parse((ROOT / "__init__.py").read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                assert isinstance(statement, ast.ImportFrom)
                for alias in statement.names:
                    # `import X as X` is what makes a name public to a type checker.
                    assert alias.asname == alias.name
                    found[alias.name] = statement.module
    return found


def test_all_is_what_type_checkers_see() -> None:
    assert senet.__all__ == sorted(declared())
    assert set(senet.__all__) <= set(dir(senet))
    assert "__version__" in dir(senet)
    # What a user types; everything else is imported from its module.
    assert len(senet.__all__) <= 30


@pytest.mark.parametrize("name", senet.__all__)
def test_each_name_resolves_to_its_home_and_is_documented(name: str) -> None:
    value = getattr(senet, name)
    assert value is getattr(import_module(declared()[name]), name)
    assert value.__module__ == declared()[name]
    doc = inspect.getdoc(value)
    assert doc
    # The generated text of a dataclass or an inherited one is no documentation.
    assert not doc.startswith(f"{name}(")
    assert not inspect.isclass(value) or value.__doc__


@pytest.mark.parametrize("name", senet.__all__)
def test_public_members_of_each_class_are_documented(name: str) -> None:
    value = getattr(senet, name)
    members = vars(value).items() if inspect.isclass(value) and value.__module__.startswith("senet") else ()
    bare = [
        member
        for member, thing in members
        if not member.startswith("_")
        and (inspect.isfunction(thing) or isinstance(thing, property))
        and not thing.__doc__
    ]
    assert bare == []


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'senet' has no attribute 'creat_model'"):
        _ = senet.creat_model
    assert not hasattr(senet, "numpy")


def test_star_import_gives_all_names() -> None:
    scope: dict[str, object] = {}
    exec("from senet import *", scope)
    assert set(senet.__all__) <= set(scope)


def test_list_models_is_the_table_of_the_documentation() -> None:
    text = TABLE.read_text()
    (table,) = re.findall(r"<!-- models -->(.*?)<!-- /models -->", text, re.DOTALL)
    rows = re.findall(r"^\|\s*`([^`]+)`", table, re.MULTILINE)
    assert rows
    assert len(rows) == len(set(rows))
    assert set(rows) == set(senet.list_models())
