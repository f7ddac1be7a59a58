"""A detector trains by the same loop, commands and pages as a classifier."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_coco_eval.core import mask
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from senet import create_model
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
from senet.training.weights import initial_network, with_weights
from tests.detection.data import coco


def recipe_of(folder: Path, model: str = "retinanet_resnet18_fpn", **fields: Any) -> Recipe:
    recipe = recipe_for(str(folder), model=model)
    data = replace(recipe.data, image_size=32, batch_size=2, eval_batch_size=4, workers=0, scales=(24, 32))
    return replace(recipe, data=data, train=replace(recipe.train, **{"epochs": 2, "device": "cpu", **fields}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_ckpt(folder / "last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("retinanet_resnet18_fpn", {}),
        pytest.param("fasterrcnn_se_resnet18_fpn", {"rois": 32, "proposals": (40, 20)}, marks=pytest.mark.slow),
    ],
)
def test_a_run_its_figures_and_an_interrupted_one(model: str, fields: dict[str, Any], tmp_path: Path) -> None:
    folder = coco(tmp_path / "data", train=4, val=2)
    recipe = recipe_of(folder, model)
    recipe = replace(recipe, model=replace(recipe.model, **fields))
    done = train(recipe, open_data(recipe.data, 0), tmp_path / "whole", quiet=True)
    last = done.history[-1]
    terms = last.train.keys() - {"loss", "lr", "seconds"}
    assert len(terms) == (4 if fields else 2)
    assert last.train["loss"] == pytest.approx(sum(last.train[term] for term in terms))
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


def test_frozen_norms_keep_their_statistics(tmp_path: Path) -> None:
    recipe = recipe_of(coco(tmp_path / "data", train=4, val=2), epochs=1)
    for freeze_norm in (True, False):
        recipe = replace(recipe, model=replace(recipe.model, freeze_norm=freeze_norm, freeze_at=2))
        folder = tmp_path / str(freeze_norm)
        train(recipe, open_data(recipe.data, 0), folder, quiet=True)
        moved = {name for name, t in weights(folder).items() if "running_mean" in name and t.any()}
        assert all("stage2" not in name and "stem" not in name for name in moved)
        assert bool(moved) is not freeze_norm


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


@pytest.mark.slow
def test_an_average_of_a_trunk_that_is_not_ours(tmp_path: Path) -> None:
    """The average is a copy that runs by itself, is measured and kept."""
    recipe = recipe_of(coco(tmp_path / "data", train=4, val=2), "retinanet_timm:resnet18_fpn+se", ema=0.5)
    recipe = replace(recipe, train=replace(recipe.train, epochs=1))
    train(recipe, open_data(recipe.data, 0), tmp_path / "run", quiet=True)
    kept = load(tmp_path / "run").model
    trained, name = weights(tmp_path / "run"), "backbone.trunk.network.layer1.0.conv1.weight"
    of_average = trained[f"average.module.{name}"]
    assert torch.equal(kept.state_dict()[name], of_average)
    assert not torch.equal(trained[f"network.{name}"], of_average)


def of_torchvision(classes: int) -> Any:
    """torchvision's detector with random weights and statistics, as in a file of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = fasterrcnn_resnet50_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=classes,
            box_detections_per_img=20,
            rpn_pre_nms_top_n_test=50,
        )
    generator = torch.Generator().manual_seed(0)
    for name, t in detector.state_dict().items():
        if name.endswith("running_var"):
            t.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            t.normal_(0, 0.1, generator=generator)
    return detector.eval()


@pytest.mark.slow
def test_a_whole_detector_of_torchvision(tmp_path: Path) -> None:
    theirs = of_torchvision(4)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    folder = coco(tmp_path / "data", train=2, val=2)
    recipe = recipe_for(str(folder), model="fasterrcnn_resnet50_fpn", weights=str(tmp_path / "theirs.pth"))
    model = replace(recipe.model, num_classes=3, proposals=(2000, 50))
    recipe = with_weights(
        replace(recipe, model=model, train=replace(recipe.train, weights=str(tmp_path / "theirs.pth")))
    )
    network, report = initial_network(recipe)
    assert report is not None
    assert report.notes[-1] == "all of the detector"
    # Theirs normalises and scales by itself; ours takes images that are.
    theirs.transform = network.transform
    theirs.roi_heads.detections_per_img = 100
    theirs.rpn._post_nms_top_n["testing"] = 50
    images = [torch.randn(3, *side, generator=torch.Generator().manual_seed(1)) for side in ((64, 96), (90, 70))]
    with torch.no_grad():
        one, two = network.eval()(images), theirs(images)
    assert all(len(found["boxes"]) for found in one)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in b)
    # Other classes: the layers that know them are drawn, and all else stays.
    other = replace(recipe, model=replace(recipe.model, num_classes=2))
    network, report = initial_network(other)
    assert report is not None
    assert report.notes[-1].startswith("drawn, since other classes are wanted: roi_heads.box_predictor.bbox_pred.bias")
    name = "roi_heads.box_head.fc6.weight"
    assert torch.equal(network.state_dict()[name], theirs.state_dict()[name])


@pytest.mark.slow
def test_masks_of_polygons_and_run_lengths_train_a_mask_rcnn(tmp_path: Path) -> None:
    """The same rectangles written in three ways; a step of training moves the mask head, and AP is that of masks."""
    folder = coco(tmp_path / "data", train=3, val=1)
    file = folder / "annotations/instances_train.json"
    table = json.loads(file.read_text())
    sizes = {row["id"]: (row["height"], row["width"]) for row in table["images"]}
    for i, row in enumerate(table["annotations"]):
        height, width = sizes[row["image_id"]]
        left, top, w, h = row["bbox"]
        # Down the columns: first zeros, then ones.
        counts = [left * height + top, *[h, height - h] * (w - 1), h]
        counts.append(height * width - sum(counts))
        if i % 3:
            row["segmentation"] = {"size": [height, width], "counts": counts}
        if i % 3 == 2:
            lengths = mask.frPyObjects(row["segmentation"], height, width)
            row["segmentation"]["counts"] = lengths["counts"].decode()
    file.write_text(json.dumps(table))
    recipe = recipe_of(folder, "maskrcnn_se_resnet18_fpn")
    recipe = replace(
        recipe,
        model=replace(recipe.model, rois=8, proposals=(10, 10)),
        data=replace(recipe.data, labels="masks", image_size=64, scales=(), flip=False),
        train=replace(recipe.train, epochs=1),
    )
    data = open_data(recipe.data, 0)
    for i, o in enumerate(data.train.objects):  # type: ignore[attr-defined]
        _, (target,) = data.train.prepare(data.train[(0, [i])], torch.device("cpu"))
        assert len(target["masks"]) == len(o.boxes)
        for found, (left, top, w, h) in zip(target["masks"], o.boxes.astype(int).tolist(), strict=True):
            wanted = torch.zeros_like(found)
            wanted[top : top + h, left : left + w] = 1
            assert torch.equal(found, wanted)
    start = create_model(replace(recipe.model, num_classes=3)).state_dict()
    done = train(recipe, data, tmp_path / "run", quiet=True)
    assert done.history[0].train["loss_mask"] > 0
    assert done.summary.measured["ap"] is not None
    name = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    assert not torch.equal(weights(tmp_path / "run")[f"network.{name}"], start[name])
