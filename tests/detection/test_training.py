"""A detector trains by the same loop, commands and pages as a classifier."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.cli import main
from senet.data import open_data
from senet.errors import ConfigError
from senet.experiments.experiment import comparison
from senet.experiments.runner import run
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from senet.runs.checkpoint import load, read_ckpt
from senet.runs.metrics import read_metrics
from senet.training.callbacks import Interrupted
from senet.training.run import train
from tests.detection.data import coco


def recipe_of(folder: Path, model: str = "retinanet_resnet18_fpn", **fields: Any) -> Recipe:
    recipe = recipe_for(str(folder), model=model)
    data = replace(recipe.data, image_size=32, batch_size=2, eval_batch_size=4, workers=0, scales=(24, 32))
    return replace(recipe, data=data, train=replace(recipe.train, epochs=2, device="cpu", **fields))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_ckpt(folder / "last.ckpt")["state_dict"]


def test_a_run_its_figures_and_an_interrupted_one(tmp_path: Path) -> None:
    folder = coco(tmp_path / "data", train=4, val=2)
    recipe = recipe_of(folder)
    done = train(recipe, open_data(recipe.data, 0), tmp_path / "whole", quiet=True)
    last = done.history[-1]
    assert last.train["loss"] == pytest.approx(last.train["classification"] + last.train["bbox_regression"])
    assert done.summary.measured.keys() >= {"ap", "ap50", "ap75"}
    assert done.summary.class_images == {"red": 3, "green": 2, "blue": 2}
    assert read_metrics(tmp_path / "whole") == done.history
    # Stopped after the third of its four steps, in the middle of the second epoch.
    steps = iter([False, False, True])
    with pytest.raises(Interrupted):
        train(
            recipe, open_data(recipe.data, 0), tmp_path / "two", quiet=True, is_asked_to_stop=lambda: next(steps, True)
        )
    again = train(recipe, open_data(recipe.data, 0), tmp_path / "two", resume=True, quiet=True)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.summary.measured == done.summary.measured
    # What was kept is read, and finds the same.
    assert load(tmp_path / "two").classes == ("red", "green", "blue")


def test_a_comparison_with_itself_is_exactly_zero(tmp_path: Path) -> None:
    folder = coco(tmp_path / "data", train=4, val=2)
    recipe = recipe_of(folder)
    recipe = replace(recipe, train=replace(recipe.train, epochs=1))
    twins = [recipe, replace(recipe, name="the same")]
    (result,) = run([comparison(twins, 2)], tmp_path / "out")
    assert result.shown == ("ap", "ap50", "ap75")
    for d in result.differences:
        assert (d.mean, d.low, d.high, d.verdict) == (0, 0, 0, "equal")
    assert "AP" in (tmp_path / "out/comparison.md").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train fasterrcnn_resnet18_fpn --data {} --crop pad", "--data.crop: has no effect on a detector"),
        ("train fasterrcnn_resnet18_fpn --data {} --freeze-epochs 1", "say model.freeze_at and model.freeze_norm"),
        ("train resnet18 --data {} --labels boxes", "data.labels: 'boxes' are for a detector, and resnet18 classifies"),
        (
            "train maskrcnn_resnet18_fpn --data {} --labels boxes",
            "what maskrcnn_resnet18_fpn learns; expected: masks",
        ),
        ("train resnet18 --data {} --max-size 9", "--data.max_size: has no effect on images of classes"),
        ("train retinanet_resnet18_fpn --data {} --rois 9", "rois: 9 has no effect on RetinaNet, which has one stage"),
        ("compare resnet18 fasterrcnn_resnet18_fpn --data {}", "some classify, some detect; expected: one of both"),
    ],
)
def test_what_does_not_fit(line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.format(coco(tmp_path, train=2, val=2)).split()) == 2
    assert message in capsys.readouterr().err


def test_frozen_only_with_weights(tmp_path: Path) -> None:
    drawn, given = (
        recipe_for(str(tmp_path), model="fasterrcnn_se_resnet18_fpn", weights=w).model for w in ("", "a.pth")
    )
    assert [(n.freeze_at, n.freeze_norm) for n in (drawn, given)] == [(0, False), (2, True)]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = coco(tmp_path / "data", train=4, val=3)
    monkeypatch.chdir(tmp_path)
    line = f"train retinanet_se_resnet18_fpn --data {folder} --image-size 32 --epochs 1 --batch-size 2 --workers 0"
    assert main(f"{line} --out run --device cpu".split()) == 0
    assert "validation AP" in capsys.readouterr().out
    assert main(["evaluate", "run", "--device", "cpu", "--workers", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["name"]: c["objects"] for c in found["per_class"]} == {"red": 2, "green": 2, "blue": 2}
    image = str(folder / "val/00.png")
    assert main(["predict", "run", image, "--score", "0.0", "--pictures", "seen", "--json", "--device", "cpu"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["image"] == image
    assert len(answer["objects"]) > 0
    assert set(answer["objects"][0]) == {"class", "score", "box"}
    assert (tmp_path / "seen/00.png").is_file()
    assert main(["predict", "run", image, "--top", "1", "--device", "cpu"]) == 2
    assert "--top: has no effect on retinanet_se_resnet18_fpn, which is a detector" in capsys.readouterr().err


def test_a_wrong_task_is_refused_in_python(tmp_path: Path) -> None:
    recipe = recipe_of(coco(tmp_path / "data", train=2, val=2))
    wrong = replace(recipe, model=replace(recipe_for("digits").model))
    with pytest.raises(ConfigError, match=r"data.labels: 'boxes' are for a detector"):
        train(wrong, open_data(recipe.data, 0), tmp_path / "run", quiet=True)
