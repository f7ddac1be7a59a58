"""The gates of a detector's trunk by class and by size of objects, and its doctor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from senet import ConfigError, create_model, doctor, get_net
from senet.analysis.analyze import analyze
from senet.analysis.collect import collect_gates
from senet.analysis.images import grouped, load, mixed
from senet.analysis.statistics import Gates
from senet.cli import main
from senet.data import open_part
from senet.data.sources import Part
from senet.recipes.recipe import DataRecipe, TrainRecipe
from senet.recipes.registry import recipe_for
from senet.runs.checkpoint import save
from senet.runs.gates import read_gates
from tests.detection.data import coco

CPU = torch.device("cpu")


def a_part(folder: Path, **changes: Any) -> tuple[Part, DataRecipe]:
    recipe = replace(
        recipe_for(str(coco(folder, train=5, val=4, **changes)), model="retinanet_resnet18_fpn").data,
        image_size=64,
        workers=0,
    )
    return open_part(recipe, "train"), recipe


def test_an_image_counts_for_each_class_and_size_of_its_objects(tmp_path: Path) -> None:
    big = {"id": 90, "image_id": 100, "category_id": 17, "bbox": [0, 0, 50, 40], "area": 2000, "iscrowd": 0}
    crowd = {"id": 91, "image_id": 101, "category_id": 17, "bbox": [0, 0, 60, 60], "area": 99999, "iscrowd": 1}
    part, _ = a_part(tmp_path, annotations=[big, crowd])
    names, of = grouped(part)
    # Image i has 1 + i % 3 objects of the classes i, i + 1, ... after another; the first one a blue one too.
    assert names == ("red", "green", "blue")
    assert of.tolist() == [
        [True, False, True],
        [False, True, True],
        [True, True, True],
        [True, False, False],
        [False, True, True],
    ]
    names, of = grouped(part, "size")
    assert names == ("small objects", "medium objects", "large objects")
    areas = [[w * h for *_, w, h in o.boxes[~o.crowd].tolist()] for o in part.split.objects]  # type: ignore[attr-defined]
    areas[0][-1] = 2000
    wanted = [[min(a) <= 1024, max(a) >= 1024, False] for a in areas]
    assert of.tolist() == wanted
    assert of[0].tolist() == [True, True, False]
    # The first image of each group, once.
    assert sorted(i for _, some in mixed(of, 1, 1) for i in some) == [0]


def test_gates_are_those_of_the_trunk_on_each_image(tmp_path: Path) -> None:
    part, recipe = a_part(tmp_path / "data")
    names, groups = grouped(part)
    net = replace(get_net("retinanet_se_resnet18_fpn"), num_classes=3)
    model: Any = create_model(net, seed=1)
    batches = load(part.split, mixed(groups, 0, 1), CPU, groups=groups)
    gates = collect_gates(model.backbone.trunk, batches, names, sampled=4)
    # The same by a hook on one unit, image after image.
    seen: list[np.ndarray] = []
    unit = model.backbone.trunk.get_submodule("features.stage3.block1.se")
    unit.register_forward_hook(
        lambda _m, inputs, output: seen.append((output / inputs[0]).nanmean((2, 3))[0].detach().numpy())
    )
    images, _ = part.split.prepare(part.split[(0, range(5))], CPU)  # type: ignore[index]
    for image in images:
        model.eval()([image])
    s, of = np.stack(seen), groups.numpy()
    found = gates.unit("SE_3_1")
    for k in range(3):
        np.testing.assert_allclose(found.mean[k], s[of[:, k]].mean(0), atol=1e-5)
        np.testing.assert_allclose(found.deviation[k], s[of[:, k]].std(0), atol=1e-5)
    # Over all, an image counts as often as it has classes.
    rows = of.nonzero()[0]
    np.testing.assert_allclose(found.overall_mean, s[rows].mean(0), atol=1e-5)
    assert (gates.images, gates.per_class.tolist()) == (5, of.sum(0).tolist())
    # No image is twice among those that open a channel.
    assert all(len(set(row)) == 5 for row in found.openers[:, :5].tolist())
    with pytest.raises(ConfigError, match="--ablate: needs the error of a classifier, and this is a detector"):
        analyze(model, part.classes, part, recipe, tmp_path, device=CPU, ablations=True)


def test_the_doctor_checks_the_trunk() -> None:
    frozen: Any = create_model(replace(get_net("fasterrcnn_se_resnet18_fpn"), num_classes=3))
    report = doctor(frozen.train(), torch.randn(2, 3, 64, 96))
    assert report.healthy
    assert len(report.units) == 8
    (note,) = [n for n in report.notes if "does not learn" in n]
    assert note == "SE_2_1, SE_2_2: does not learn, since the detector freezes its stages up to 2"
    # A unit that should learn and does not is a fault as everywhere.
    learning: Any = create_model(replace(frozen.net, freeze_at=0, freeze_norm=False))
    learning.backbone.trunk.get_submodule("features.stage2.block1.se").requires_grad_(False)
    report = doctor(learning.train(), torch.randn(2, 3, 64, 96))
    assert [f.kind for f in report.findings] == ["no-gradient"]


@pytest.mark.slow
def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Analyze, doctor, and what takes classifiers alone, on a detector that was not trained."""
    folder = coco(tmp_path / "data", train=4, val=3)
    recipe = recipe_for(str(folder), model="retinanet_se_resnet18_fpn")
    recipe = replace(
        recipe,
        model=replace(recipe.model, num_classes=3),
        data=replace(recipe.data, image_size=32, workers=0),
        train=TrainRecipe(device="cpu"),
    )
    file = str(tmp_path / "net.safetensors")
    save(file, create_model(recipe.model), recipe=recipe, classes=("red", "green", "blue"))
    line = ["analyze", file, "--device", "cpu", "--channels", "4", "--json"]
    assert main([*line, "--by", "size", "--out", str(tmp_path / "sizes")]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["small objects"]
    assert Gates.load(tmp_path / "sizes/gates.npz").classes[2] == "large objects"
    page = read_gates(tmp_path / "sizes")
    assert page is not None
    assert "; an image counts for each size that its objects have" in page.source
    assert len(page.thumbnails) == page.images == 3
    assert page.top1_error is None
    assert main([*line, "--draw", "blue", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == ["blue"]
    assert main(["doctor", file, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"].startswith("3 of 3 validation images")
    assert main([*line, "--ablate"]) == 2
    assert "--ablate: needs the error of a classifier" in capsys.readouterr().err
    for command in ("app", "ensemble"):
        assert main([command, file] + [file] * (command == "ensemble")) == 2
        assert "is a detector, which this command does not take" in capsys.readouterr().err


def test_sizes_are_those_of_objects() -> None:
    part = open_part(recipe_for("digits").data)
    with pytest.raises(ConfigError, match=r"--by: 'size' is that of objects, and .* have none; expected: class"):
        grouped(part, "size")
