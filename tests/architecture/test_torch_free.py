"""What must answer without torch: configs, tables, recipes, and the command line's help and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import senet
from senet.cli import COMMANDS
from senet.models.registry import FAMILIES

ROOT = Path(senet.__file__).parent
HEAVY = ("torch", "torchvision", "lightning", "safetensors", "matplotlib", "scipy", "numpy", "PIL")

BLOCK = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
"""

MODULES = [
    "errors",
    "files",
    "config",
    "units",
    "units.config",
    "models",
    "models.net",
    "models.registry",
    *(f"models.{name}" for name in FAMILIES),
    "models.describe",
    "blocks.block_costs",
    "models.detector",
    "models.other",
    "paper",
    "create",
    "weights.ilsvrc",
    *sorted(f"recipes.{p.stem}" for p in (ROOT / "recipes").glob("*.py") if p.stem != "__init__"),
    "cli",
    *sorted(f"cli.{p.stem}" for p in (ROOT / "cli").glob("*.py") if p.stem != "__init__"),
]


def without_torch(script: str, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh process in which the heavy libraries cannot be imported."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + script, *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


def test_each_torch_free_module_by_itself() -> None:
    # One process for all, forgetting senet in between, so that each is imported with nothing of senet loaded.
    script = f"""
from importlib import import_module
for name in {MODULES!r}:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == "senet"]:
        del sys.modules[loaded]
    try:
        import_module("senet." + name)
    except ImportError as error:
        print(name, error)
print(sorted(set(sys.modules) & set({HEAVY!r})))
"""
    done = without_torch(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_the_blocker_blocks() -> None:
    done = without_torch("import senet.functional")
    assert done.returncode == 1
    assert "blocked: torch" in done.stderr


def test_networks_and_recipes_can_be_read_without_torch() -> None:
    done = without_torch(
        "import senet\n"
        "from senet.recipes.registry import recipes\n"
        "net = senet.override(senet.get_net('SE-ResNet-50'), 'se.reduction=8')\n"
        "print(len(senet.list_models()), sorted(recipes())[0], senet.to_dict(net)['se']['reduction'])"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{len(senet.list_models())} ablation 8\n"


def test_a_written_table_finds_its_family_in_a_fresh_process() -> None:
    done = without_torch(
        "import senet\n"
        "print(type(senet.from_dict(senet.Net, {'family': 'inception_resnet'})).__name__)\n"
        "try: senet.from_dict(senet.Net, {'family': 'vit'})\n"
        "except senet.ConfigError as error: print(error)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "InceptionResNet"
    assert second.startswith("family: 'vit' is not known; expected: residual, ")


ANSWERS = {
    "--help": "usage: senet COMMAND",
    "--version": senet.__version__,
    **{f"{command} --help": f"usage: senet {command}" for command in COMMANDS},
    "train --help all": "--optim.lr",
    "models senet154": "115,088,984",
    "info se_resnet50": "28,088,024",
    "info fasterrcnn_resnet50_fpn": "rpn",
    "tables complexity": "Table 16",
}
"""A command line -> what is in its answer."""

MISTAKES = {
    "convert a.pth --to tensorflow": "--to: 'tensorflow' is not known; expected: senet,",
    "tables accuracy": "TABLES: 'accuracy' is not known; tables: complexity",
    "tran": "command: 'tran' is not known (did you mean 'train'?)",
    "train nosuch": "model: 'nosuch' is not known; all models: senet models",
    "train resnett101": "did you mean 'resnet101'?",
    "train --schedule.kind stp": "schedule.kind: 'stp' is not known (did you mean 'step'?); expected",
    "train --lr fast": "optim.lr: 'fast' is not a number",
    "train --reductoin 8": "did you mean '--reduction'?",
    "train --recipe digit": "recipe: 'digit' is not known (did you mean 'digits'?)",
    "info": "MODEL: is missing",
    "info se_resnet50 --se.placement conv": "expected: standard, pre, post",
    "models nosuch*": "no network matches 'nosuch*'",
}
"""A command line -> what its one line on the error stream says."""

EACH = """
import io, json
from contextlib import redirect_stderr, redirect_stdout
from senet.cli import main

found = {}
for line in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            status = main(line.split())
        except SystemExit as end:
            status = end.code
    found[line] = status, out.getvalue(), err.getvalue()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """A command line -> status, standard output and error; one process for all."""
    folder = tmp_path_factory.mktemp("empty")
    done = without_torch(EACH, json.dumps([*ANSWERS, *MISTAKES, ""]), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == []
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", ANSWERS)
def test_the_command_line_answers_without_torch(line: str, said: dict[str, tuple[int, str, str]]) -> None:
    status, out, err = said[line]
    assert (status, err) == (0, "")
    assert ANSWERS[line] in out


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_without_torch(line: str, said: dict[str, tuple[int, str, str]]) -> None:
    status, out, err = said[line]
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert MISTAKES[line] in err


def test_no_command_is_a_mistake_that_is_answered(said: dict[str, tuple[int, str, str]]) -> None:
    status, out, err = said[""]
    assert (status, err) == (2, "")
    assert out.startswith("usage: senet COMMAND")
