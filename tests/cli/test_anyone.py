"""A network that is not ours, trained on a folder of images, passes through every command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from senet.cli import main
from senet.cli.training import rate_note
from senet.config import override
from senet.experiments.experiment import comparison
from senet.experiments.runner import run
from senet.foreign_models import CODE
from senet.recipes.registry import get_recipe, recipe_for
from senet.runs.checkpoint import load

NET = """
from pathlib import Path
from types import SimpleNamespace
from torch import nn

Path(__file__).with_suffix(".ran").touch()

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.norm2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.relu = nn.ReLU()

    def forward(self, x):
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + x)

class Mine(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x):
        # As the networks of Hugging Face.
        return SimpleNamespace(loss=None, logits=self.fc(self.blocks(self.stem(x)).mean((2, 3))))

def mine(num_classes=10):
    return Mine(num_classes)
"""

SMALL = ["--image-size", "32", "--batch-size", "8", "--epochs", "1", "--threads", "1"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dark and light noise, in train/ and val/, in the current folder; also a user's net.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(CODE, raising=False)
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("val", 6)):
        for name, level in (("dark", 60), ("light", 160)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(level - 40, level + 40, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    """What a command prints on standard output."""
    capsys.readouterr()
    assert main([*words]) == status
    return capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("network", ["timm:resnet10t+se", "torchvision:shufflenet_v2_x0_5+eca", "net.py:mine+se"])
def test_one_checkpoint_through_every_command(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    said = answer(capsys, "train", network, "--data", "photos", *SMALL, "--out", "run")
    code: list[str] = []
    if network.startswith("net.py"):
        assert "senet evaluate run --code net.py\n" in said
        # Whoever opens the folder on another machine has not named the file.
        monkeypatch.delenv(CODE)
        (photos / "net.ran").unlink()
        assert main(["evaluate", "run"]) == 2
        assert "net.py:mine: this network is made by a file of yours" in capsys.readouterr().err
        assert not (photos / "net.ran").exists()
        code = ["--code", "net.py"]
    found = json.loads(answer(capsys, "evaluate", "run", *code, "--json"))
    assert (found["model"], found["images"]) == (network, 12)
    summary = json.loads((photos / "run" / "summary.json").read_text())
    assert found["top1_error"] == summary["best"]
    assert found["cost"]["params"] == sum(p.numel() for p in load("run").model.parameters())
    classes = json.loads(answer(capsys, "predict", "run", "photos/val/dark/0.png", *code, "--json"))
    assert {c["class"] for c in classes[0]["classes"]} == {"dark", "light"}
    assert "no fault, on 12 of 12 images" in answer(capsys, "doctor", "run", "--data", "photos", *code)
    gates = json.loads(answer(capsys, "analyze", "run", *code, "--json", "--ablate"))
    assert gates["images"] == 12
    assert gates["units"]
    exported = json.loads(answer(capsys, "export", "run", "net.onnx", *code, "--json"))
    assert exported["deviation"] < 1e-4
    properties = {p.key: p.value for p in onnx.load("net.onnx").metadata_props}
    stated = json.loads(properties["senet.preprocessing"])
    assert stated["image_size"] == 32
    assert stated["mean"] == list(load("run").recipe.data.mean)
    assert "report.html" in answer(capsys, "report", "run")
    assert f"{network}" in answer(capsys, "info", "run", *code)


@pytest.mark.slow
def test_compare_from_equal_weights(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(torch.nn.Module().state_dict(), "empty.pth")
    main(["train", "timm:resnet10t", "--data", "photos", *SMALL, "--out", "before"])
    words = ["compare", "timm:resnet10t", "timm:resnet10t+se", "timm:resnet10t+eca", "--data", "photos", *SMALL]
    found = json.loads(answer(capsys, *words, "--weights", "before", "--seeds", "2", "--out", "both", "--json"))
    (result,) = found["experiments"]
    assert [row["name"] for row in result["rows"]] == ["timm:resnet10t", "timm:resnet10t+se", "timm:resnet10t+eca"]
    assert all(row["finished"] == 2 for row in result["rows"])
    report = (photos / "both" / "runs" / "timm-resnet10t+se-seed0" / "weights.txt").read_text()
    assert "84 tensors loaded" in report
    assert "the classifier 'fc' is drawn" in report


@pytest.mark.parametrize(("name", "lines"), [("folder", 1), ("finetune", 0)])
def test_the_rule_of_proportion_is_of_sgd(name: str, lines: int) -> None:
    base = get_recipe(name)
    assert len(rate_note(base, override(base, "data.batch_size=8"))) == lines


def test_a_network_compared_with_itself(photos: Path) -> None:
    """The difference is exactly 0, with another name for the same network."""
    base = recipe_for("photos", model="timm:resnet10t")
    base = replace(base, data=replace(base.data, image_size=32, batch_size=8), train=replace(base.train, epochs=1))
    experiment = comparison([base, replace(base, name="again")], 2)
    (result,) = run([experiment], photos / "itself")
    assert [(d.mean, d.low, d.high) for d in result.differences] == [(0.0, 0.0, 0.0)] * len(result.differences)
    assert result.differences
