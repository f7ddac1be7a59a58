"""The example scripts run as their docstrings say, without a warning, each in a process of its own."""

import contextlib
import io
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "ablation_costs": "30,586,920",
    "add_unit": "59 tensors as in resnet20, bit for bit; 18 of the units",
    "gates": "stage2.block1: feature map (8, 16, 32, 32), gates (8, 16)",
    "own_backbone": "channels (128, 256, 512) strides (8, 16, 32)",
    "train_from_python": "wrote best.safetensors",
}


def run(name: str, *arguments: object) -> str:
    """What the script prints."""
    line = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested():
    assert sorted(SAYS) == sorted(script.stem for script in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", sorted(SAYS.keys() - {"train_from_python"}))
def test_example(name):
    assert SAYS[name] in run(name)


def test_training_and_the_gates_of_what_was_trained(tmp_path):
    assert SAYS["train_from_python"] in run("train_from_python", tmp_path / "run")
    assert "features.stage4.block3.se" in run("gates", tmp_path / "run")


@pytest.mark.parametrize("name", sorted(SAYS))
def test_example_is_short_and_says_how_to_run_it(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert text.count("\n") < 60
    assert f"python examples/{name}.py" in text


def test_seven_is_one_of_the_digits():
    with (files("senet.data") / "digits.npz").open("rb") as file, np.load(file) as arrays:
        digit, target = arrays["images"][393], arrays["targets"][393]
    grey = Image.fromarray((digit * (255 / 16)).round().astype(np.uint8))
    assert target == 7
    assert np.array_equal(Image.open(EXAMPLES / "seven.png"), grey.resize((64, 64), Image.Resampling.BILINEAR))


@pytest.mark.slow
def test_notebook_prints_what_it_shows(monkeypatch):
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = json.loads((EXAMPLES / "gates_by_class.ipynb").read_text())["cells"]
    names: dict = {}
    for cell in (c for c in cells if c["cell_type"] == "code"):
        shown = "".join(t for o in cell["outputs"] if o.get("name") == "stdout" for t in o["text"])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        # Another machine may round a training elsewhere; what it found is then in another unit.
        assert printed.getvalue().split()[-4:] == shown.split()[-4:]
    assert 0 <= names["unit"].mean.min() < names["unit"].mean.max() <= 1
