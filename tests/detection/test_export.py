"""A detector as an ONNX file gives torch's detections in ONNX Runtime, on images of other sizes than the traced one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from senet import ConfigError, create_model, get_net
from senet.cli import main
from senet.deploy.onnx_detector import export_detector, farthest
from senet.detection.build import set_thresholds_
from senet.recipes.recipe import TrainRecipe
from senet.recipes.registry import recipe_for
from senet.runs.checkpoint import save
from tests.detection.data import coco


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(3, *size, generator=torch.Generator().manual_seed(size[0])) for size in sizes]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fasterrcnn_se_resnet18_fpn", "retinanet_timm:resnet18_fpn+eca", "maskrcnn_resnet18_fpn"]
)
def test_detections_of_the_file(name: str, tmp_path: Path) -> None:
    few: dict[str, Any] = {} if name.startswith("retina") else {"proposals": (20, 20)}
    model: Any = create_model(replace(get_net(name), num_classes=3, **few), seed=2).eval()
    # Nothing that is drawn is sure, and RetinaNet's scores are almost equal.
    set_thresholds_(model, 0.0, None)
    if name.startswith("retina"):
        torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=1.0)
    file = tmp_path / "net.onnx"
    done, count = export_detector(model, file, images((64, 96)), classes=("a", "b", "c"))
    assert count > 3
    assert done.deviation is not None
    assert done.deviation < 1e-4
    run = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    # One of fewer anchors than proposals, upright, and one wide.
    for image in images((90, 40), (70, 130)):
        found = dict(
            zip([o.name for o in run.get_outputs()], run.run(None, {"image": image[None].numpy()}), strict=True)
        )
        with torch.no_grad():
            wanted = model([image])[0]
        assert len(wanted["scores"]) > 3
        assert found["scores"] == pytest.approx(wanted["scores"].numpy(), abs=1e-4)
        assert (found["labels"] == wanted["labels"].numpy() - 1).mean() > 0.9
        close = np.abs(found["boxes"] - wanted["boxes"].numpy()).max(1) < 0.01
        assert close.mean() > 0.9
        if "masks" in found:
            assert found["masks"].shape == wanted["masks"].shape == (len(close), 1, *image.shape[1:])
    said = {p.key: p.value for p in onnx.load(str(file)).metadata_props}
    assert json.loads(said["senet.classes"]) == ["a", "b", "c"]
    assert json.loads(said["senet.net"])["num_classes"] == 3


def test_the_farthest_detection() -> None:
    box, half = np.array([[0.0, 0, 100, 50]]), np.array([0.5])
    one = (box, half, np.array([1]))
    assert farthest(one, one) == 0
    assert farthest(one, (box + np.array([0, 0, 1, 0]), half, np.array([1]))) == pytest.approx(1 / 101)
    assert farthest(one, (box, half + 0.25, np.array([1]))) == 0.25
    assert farthest(one, (box, half, np.array([2]))) == float("inf")
    nothing = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    assert farthest(one, nothing) == farthest(nothing, one) == float("inf")
    assert farthest(nothing, nothing) == 0
    # In another order, and one that is there twice.
    two = (np.concatenate([box + 1, box]), np.array([0.4, 0.5]), np.array([0, 1]))
    assert farthest(two, tuple(x[::-1] for x in two)) == 0
    mask = np.zeros((1, 1, 10, 10))
    assert farthest((*one, mask), (*one, mask + 0.5)) == 0.5


def test_what_cannot_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_for(str(coco(tmp_path / "data", train=2, val=2)), model="retinanet_resnet18_fpn")
    model = create_model(replace(recipe.model, num_classes=3))
    recipe = replace(recipe, model=replace(recipe.model, num_classes=3), train=TrainRecipe(device="cpu"))
    file = str(tmp_path / "net.safetensors")
    save(file, model, recipe=recipe, classes=("red", "green", "blue"))
    for line, message in (
        (("x.pt2",), "OUT: x.pt2, and retinanet_resnet18_fpn is a detector; expected: OUT.onnx"),
        (
            ("x.onnx", "--size", "64"),
            "--size: has no effect on retinanet_resnet18_fpn, a detector, whose file takes any",
        ),
        (
            ("x.onnx", "--int8"),
            "--int8: has no effect on retinanet_resnet18_fpn, a detector, which is written in float",
        ),
        (("x.onnx", "--optimize", "machine"), "--optimize: 'machine' has no effect on retinanet_resnet18_fpn"),
    ):
        assert main(["export", file, str(tmp_path / line[0]), *line[1:]]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match="opset: 21 is not known"):
        export_detector(model, tmp_path / "x.onnx", images((32, 32)), opset=21)
    with pytest.raises(ConfigError, match=r"images: none; expected: one or more"):
        export_detector(model, tmp_path / "x.onnx", [])


@pytest.mark.slow
def test_the_command_compares_on_its_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_for(str(coco(tmp_path / "data", train=2, val=3)), model="retinanet_resnet18_fpn")
    model = replace(recipe.model, num_classes=3)
    recipe = replace(recipe, model=model, data=replace(recipe.data, image_size=64, workers=0))
    file, out = str(tmp_path / "net.safetensors"), tmp_path / "net.onnx"
    save(file, create_model(model), recipe=recipe, classes=("red", "green", "blue"))
    assert main(["export", file, str(out)]) == 0
    assert "checked: 0 detections in 2 of 3 validation images" in capsys.readouterr().out
    assert {p.key for p in onnx.load(str(out)).metadata_props} >= {"senet.preprocessing", "senet.net", "senet.classes"}
