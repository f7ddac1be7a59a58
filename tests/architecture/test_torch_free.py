"""What must answer without torch: configs, tables, recipes, and the command line's help and mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import senet
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


def cli(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return without_torch("from senet.cli import main; sys.exit(main(sys.argv[1:]))", *args, cwd=cwd)


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


@pytest.mark.parametrize(
    ("args", "status", "out", "err"),
    [
        (["--help"], 0, "usage: senet COMMAND", ""),
        ([], 2, "usage: senet COMMAND", ""),
        (["--version"], 0, senet.__version__, ""),
        (["train", "--help"], 0, "--optim.lr", ""),
        (["compare", "--help"], 0, "usage: senet compare", ""),
        (["evaluate", "--help"], 0, "usage: senet evaluate", ""),
        (["predict", "--help"], 0, "usage: senet predict", ""),
        (["models", "--help"], 0, "usage: senet models", ""),
        (["info", "--help"], 0, "usage: senet info", ""),
        (["tables", "--help"], 0, "usage: senet tables", ""),
        (["convert", "--help"], 0, "usage: senet convert", ""),
        (["doctor", "--help"], 0, "usage: senet doctor", ""),
        (["convert", "a.pth", "--to", "tensorflow"], 2, "", "--to: 'tensorflow' is not known; expected: senet,"),
        (["tables", "accuracy"], 2, "", "TABLES: 'accuracy' is not known; tables: complexity"),
        (["tran"], 2, "", "command: 'tran' is not known (did you mean 'train'?)"),
        (["train", "nosuch"], 2, "", "model: 'nosuch' is not known; all models: senet models"),
        (["train", "resnett101"], 2, "", "did you mean 'resnet101'?"),
        (
            ["train", "--schedule.kind", "stp"],
            2,
            "",
            "schedule.kind: 'stp' is not known (did you mean 'step'?); expected",
        ),
        (["train", "--lr", "fast"], 2, "", "optim.lr: 'fast' is not a number"),
        (["train", "--reductoin", "8"], 2, "", "did you mean '--reduction'?"),
        (["train", "--recipe", "digit"], 2, "", "recipe: 'digit' is not known (did you mean 'digits'?)"),
        (["info"], 2, "", "MODEL: is missing"),
        (["info", "se_resnet50", "--se.placement", "conv"], 2, "", "expected: standard, pre, post"),
        (["models", "senet154"], 0, "115,088,984", ""),
        (["info", "se_resnet50"], 0, "28,088,024", ""),
        (["info", "fasterrcnn_resnet50_fpn"], 0, "rpn", ""),
        (["tables", "complexity"], 0, "Table 16", ""),
        (["models", "nosuch*"], 2, "", "no network matches 'nosuch*'"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_the_command_line_answers_without_torch(
    args: list[str], status: int, out: str, err: str, tmp_path: Path
) -> None:
    done = cli(*args, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert out in done.stdout
    assert err in done.stderr
    # A mistake is one line on the error stream; help is none.
    assert done.stderr.count("\n") == (1 if err else 0)
    assert list(tmp_path.iterdir()) == []
