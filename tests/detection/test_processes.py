"""Several processes train the detector that one trains, and go on where they were killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.config import override
from senet.runs.metrics import read_metrics
from tests.detection.data import coco
from tests.detection.test_training import recipe_of, weights
from tests.training.worker import trained_together

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("model", "batch", "images", "fields", "settings"),
    [
        # The last batch has one image, so one of the two processes has none.
        ("retinanet_se_resnet18_fpn", 2, 5, {}, ("train.sync_batch_norm=true",)),
        ("retinanet_resnet18_fpn", 2, 5, {"freeze_norm": True, "freeze_at": 2}, ()),
        # Proposals are chosen among two images, so each process has two. Of 64x96 pixels: in padding all scores are
        # equal, and which of them are the best is chance.
        (
            "fasterrcnn_se_resnet18_fpn",
            4,
            8,
            {"rois": 32, "proposals": (200, 100), "freeze_at": 2, "freeze_norm": False},
            ("train.sync_batch_norm=true",),
        ),
        (
            "maskrcnn_se_resnet18_fpn",
            4,
            8,
            {"rois": 32, "proposals": (200, 100), "freeze_at": 2, "freeze_norm": False},
            ("train.sync_batch_norm=true",),
        ),
    ],
)
def test_two_processes_train_the_detector_of_one(
    model: str, batch: int, images: int, fields: dict[str, Any], settings: tuple[str, ...], tmp_path: Path
) -> None:
    """In float64: the weights within 1e-8, and the losses, of which torchvision computes one in float32.

    Killed in the second epoch, they go on bit for bit in float32.
    """
    recipe = recipe_of(coco(tmp_path / "data", train=images, val=3), model, save_batches=1, threads=1)
    size = {"image_size": 64, "scales": (64,)} if batch == 4 else {}
    recipe = replace(recipe, model=replace(recipe.model, **fields), data=replace(recipe.data, batch_size=batch, **size))
    # What an image is padded to, with those beside it, moves what is found in it.
    recipe = override(recipe, "data.eval_batch_size=1")
    recipe = override(recipe, *settings)
    folders = {name: tmp_path / name for name in ("alone", "both", "whole", "killed")}
    for name, count in (("alone", 1), ("both", 2), ("whole", 2)):
        ended = trained_together(count, recipe, folders[name], double=name != "whole")
        assert all(status == 0 for status, _ in ended), ended
    one, two = (read_metrics(folders[name]) for name in ("alone", "both"))
    for expected, found in zip(one, two, strict=True):
        assert found.train == pytest.approx(expected.train, rel=0, abs=1e-6 if batch == 4 else 1e-9)
        # None where no object has such a size.
        assert {name: value or 0.0 for name, value in found.measured.items()} == pytest.approx(
            {name: value or 0.0 for name, value in expected.measured.items()}, rel=1e-6
        )
    ours, theirs = weights(folders["both"]), weights(folders["alone"])
    assert ours.keys() == theirs.keys()
    for key, t in ours.items():
        torch.testing.assert_close(t, theirs[key], rtol=0, atol=1e-8, msg=key)
    ended = trained_together(2, recipe, folders["killed"], die_at=(9, one[0].step + 2))
    assert all(status < 0 for status, _ in ended), ended
    ended = trained_together(2, recipe, folders["killed"], resume=True)
    assert all(status == 0 for status, _ in ended), ended
    whole, again = weights(folders["whole"]), weights(folders["killed"])
    assert all(torch.equal(whole[name], t) for name, t in again.items())
