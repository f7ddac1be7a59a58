"""`senet doctor`: the exit status is the answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from senet import create_model, load, save

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A network with weights as drawn, all hidden layers kept alive by their biases, and one with a saturated unit."""
    held = load(trained)
    model = create_model(held.recipe.model, seed=1)
    for name, layer in model.named_modules():
        if name.endswith("se.fc1"):
            nn.init.constant_(layer.bias, 1.0)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.num_batches_tracked.fill_(1)
    paths = tmp_path / "well.safetensors", tmp_path / "ill.safetensors"
    save(paths[0], model, recipe=held.recipe, classes=held.classes)
    nn.init.constant_(model.features.stage3.block1.se.fc2.bias, 50.0)
    save(paths[1], model, recipe=held.recipe, classes=held.classes)
    return paths


@pytest.mark.parametrize("words", [(), ("--data", "digits")])
def test_status_0_where_healthy_and_1_where_not(senet: Call, checkpoints: tuple[Path, Path], words: tuple) -> None:
    well, ill = checkpoints
    status, out, _ = senet("doctor", well, *words)
    assert (status, "9 units, no fault" in out) == (0, True), out
    # Its own images, where none are named.
    assert out.startswith("se_resnet20: 9 units, no fault, on 16 of 359 held-out digits\n")
    status, out, _ = senet("doctor", ill, *words)
    assert status == 1
    assert out.startswith("se_resnet20: 1 of 9 units has a fault, on 16 of 359 held-out digits\n")
    assert "saturated: SE_3_1 (features.stage3.block1.se): 100 % of its gates" in out


def test_json(senet: Call, checkpoints: tuple[Path, Path]) -> None:
    status, out, _ = senet("doctor", checkpoints[1], "--data", "digits", "--json")
    found = json.loads(out)
    assert (status, found["model"], found["healthy"], found["batch"]) == (
        1,
        "se_resnet20",
        False,
        "16 images, 1 x 8 x 8",
    )
    assert [(f["kind"], f["unit"]) for f in found["findings"]] == [("saturated", "features.stage3.block1.se")]
    assert found["units"][3]["saturated"] == 1
    assert len(found["units"]) == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("timm:resnet10t", "--mean", "0.3"), "--data.mean: has no effect on noise; choose images with --data"),
        (("timm:resnet10t", "--part", "val"), "--part: has no effect on noise; choose images with --data"),
        (("{}", "--flip"), "option: '--flip' is not known"),
        (
            ("{}", "--data", "digits", "--mean", "0.1,0.2,0.3", "--std", "0.1,0.2,0.3"),
            "3 channels, and this network takes 1; expected: 1 number, and as many for data.std",
        ),
    ],
)
def test_mistakes(senet: Call, trained: Path, words: tuple[str, ...], message: str) -> None:
    status, _, err = senet("doctor", *(w.format(trained) for w in words))
    assert status == 2
    assert message in err


def test_noise_where_its_images_are_gone(senet: Call, checkpoints: tuple[Path, Path], tmp_path: Path) -> None:
    held = load(checkpoints[0])
    recipe = replace(held.recipe, data=replace(held.recipe.data, name=str(tmp_path / "gone")))
    save(tmp_path / "moved.safetensors", held.model, recipe=recipe, classes=held.classes)
    status, out, _ = senet("doctor", tmp_path / "moved.safetensors")
    first, second, *_ = out.splitlines()
    assert (status, first) == (0, "se_resnet20: 9 units, no fault, on 4 images of noise, 1 x 8 x 8")
    assert second.startswith("note: noise, since its own images are not here: ")


def test_a_run_folder(senet: Call, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    assert senet("doctor", tmp_path / "run")[0] in (0, 1)
