"""Guard 1: a room imports only rooms of lower floors, and only the outside libraries that are its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import senet

ROOT = Path(senet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = {
    "errors": 0,
    "files": 0,
    "config": 0,
    "functional": 1,
    "initialization": 1,
    "counting": 1,
    "images": 1,
    "device": 1,
    "units": 2,
    "blocks": 3,
    "tracing": 2,
    "insert": 3,
    "models": 4,
    "weights": 4,
    "kernels": 4,
    "recipes": 5,
    "runs": 5,
    "create": 5,
    "paper": 5,
    "diagnosis": 5,
    "data": 6,
    "training": 6,
    "evaluation": 6,
    "detection": 6,
    "deploy": 6,
    "bench": 6,
    "analysis": 6,
    "report": 6,
    "app": 6,
    "cli": 7,
    "__main__": 8,
}
OUTSIDE = {
    "errors": set(),
    "files": {"filelock"},
    "config": set(),
    "functional": {"torch"},
    "initialization": {"torch"},
    "counting": {"torch"},
    "images": {"torch"},
    "device": {"torch"},
    "units": {"torch"},
    "blocks": {"torch"},
    "tracing": {"torch"},
    "insert": {"torch"},
    "models": {"torch"},
    "weights": {"torch", "safetensors", "huggingface_hub", "google"},
    "kernels": {"torch", "triton"},
    "recipes": set(),
    "runs": {"torch", "safetensors", "yaml", "lightning", "torchvision"},
    "create": {"torch"},
    "paper": set(),
    "diagnosis": {"torch"},
    "data": {"torch", "numpy", "torchvision", "PIL", "tqdm"},
    "training": {"torch", "lightning", "torchdata", "torchvision", "matplotlib", "scipy", "tqdm", "tensorboard"},
    "evaluation": {"torch", "tqdm", "numpy"},
    "detection": {"torch", "torchvision"},
    "deploy": {"torch", "onnx", "onnxruntime", "numpy"},
    "bench": {"torch", "matplotlib", "tqdm"},
    "analysis": {"torch", "numpy", "matplotlib", "tqdm"},
    "report": set(),
    "app": {"torch", "numpy", "gradio"},
    "cli": {"jsonargparse", "torch", "timm", "torchvision"},
    "__main__": set(),
}
NEIGHBOURS = {
    ("config", "errors"),
    ("files", "errors"),
    ("runs", "recipes"),
    ("weights", "models"),
    ("weights", "kernels"),
    ("paper", "recipes"),
    ("app", "analysis"),
}
"""Who may look at whom on one floor; on floor 6 nobody does."""

ONLY_FOR_TYPES = {"torch", "typing_extensions"}
"""What any room may name for a type checker, since it is not imported when the program runs."""

DYNAMIC = {"__init__.py", "cli/__init__.py", "config.py"}
"""The files that import by a computed name: lazy tables, and the scan that both registries are."""


class Import(NamedTuple):
    module: str
    names: tuple[str, ...]
    line: int
    for_types: bool
    at_top: bool


def imports_of(source: str) -> Iterator[Import]:
    """Every import of a file, wherever it stands."""

    def walk(node: ast.AST, for_types: bool, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, (), child.lineno, for_types, at_top)
            elif isinstance(child, ast.ImportFrom):
                names = tuple(alias.name for alias in child.names)
                yield Import("." * child.level + (child.module or ""), names, child.lineno, for_types, at_top)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, True, at_top)
            else:
                inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, for_types, at_top and not inside)

    return walk(ast.parse(source), False, True)


def room_of(path: Path) -> str:
    """`models/net.py` -> "models", `config.py` -> "config"."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def is_below(other: str, room: str) -> bool:
    """Whether `room` may import `other`."""
    return other == room or (room, other) in NEIGHBOURS or FLOORS[other] < FLOORS[room]


def faults_of(room: str, source: str) -> list[str]:
    """What a file of a room imports and must not."""
    faults = []
    for imported in imports_of(source):
        where = f"line {imported.line}: {imported.module}"
        top, _, rest = imported.module.partition(".")
        if not top:
            faults.append(f"{where}: a relative import hides the floor")
        elif top != "senet":
            allowed = OUTSIDE[room] | (ONLY_FOR_TYPES if imported.for_types else set())
            if top not in allowed and top not in sys.stdlib_module_names and top != "__future__":
                faults.append(f"{where}: not a library of {room}")
        elif not rest:
            # The root is a lazy table of all rooms; through it every floor could be reached.
            rooms = [name for name in imported.names if name != "__version__"]
            for name in rooms:
                if name not in FLOORS:
                    faults.append(f"{where}.{name}: import it from its own file")
                elif not is_below(name, room):
                    faults.append(f"{where}.{name}: floor {FLOORS[name]}, not below {room}")
        else:
            other = rest.split(".")[0]
            if other not in FLOORS:
                faults.append(f"{where}: a room without a floor")
            elif not is_below(other, room):
                faults.append(f"{where}: floor {FLOORS[other]}, not below {room} on floor {FLOORS[room]}")
    return faults


@pytest.mark.parametrize(
    "path", [p for p in FILES if p != ROOT / "__init__.py"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_stay_below(path: Path) -> None:
    assert faults_of(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source", "fault"),
    [
        ("units", "from senet.models.net import Net", "floor 4, not below units on floor 2"),
        ("data", "from senet.training.run import train", "floor 6, not below data on floor 6"),
        ("training", "def f():\n    from senet.data import open_data", "floor 6, not below training"),
        ("models", "if TYPE_CHECKING:\n    from senet.cli import main", "floor 7, not below models"),
        ("blocks", "from senet import models", "floor 4, not below blocks"),
        ("blocks", "from senet import create_model", "import it from its own file"),
        ("blocks", "from . import residual", "hides the floor"),
        ("blocks", "from senet.kitchen import sink", "a room without a floor"),
        ("errors", "from senet.config import to_dict", "floor 0, not below errors"),
        ("config", "import torch", "not a library of config"),
        ("evaluation", "import torchvision.models", "not a library of evaluation"),
        ("training", "try:\n    import yaml\nexcept ImportError:\n    pass", "not a library of training"),
    ],
)
def test_the_walk_sees_faults(room: str, source: str, fault: str) -> None:
    (found,) = faults_of(room, source)
    assert fault in found


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("units", "from senet.config import UnitConfig"),
        ("units", "from senet.units.config import SEConfig"),
        ("cli", "from senet.data import open_data\nfrom senet.training.run import train"),
        ("training", "from senet import __version__"),
        ("config", "if TYPE_CHECKING:\n    from torch import nn"),
        ("blocks", "from senet import functional as sf"),
    ],
)
def test_the_walk_lets_pass(room: str, source: str) -> None:
    assert faults_of(room, source) == []


def test_every_room_has_a_floor_and_libraries() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms == set(FLOORS) == set(OUTSIDE)
    assert all(FLOORS[a] == FLOORS[b] for a, b in NEIGHBOURS)


def test_through_the_root_only_the_version_is_read() -> None:
    used = set()
    for path in FILES:
        tree = ast.parse(path.read_text())
        # A file that binds the name `senet` reads attributes of the root.
        if any(i.module == "senet" and not i.names for i in imports_of(path.read_text())):
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "senet":
                    used.add(node.attr)
    assert used <= {"__version__"}


def test_computed_imports_stay_in_their_files() -> None:
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "import_module",
                "__import__",
            ):
                found.add(path.relative_to(ROOT).as_posix())
    assert found == DYNAMIC


def test_torchvision_in_training_is_for_its_version_alone() -> None:
    for path in (ROOT / "training").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "torchvision":
                assert node.attr == "__version__", path.name
        assert not [i for i in imports_of(path.read_text()) if i.module.startswith("torchvision") and i.names]
