"""Batches of one image, on which batch norm cannot train where a feature map is 1x1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from senet.data import open_data
from senet.errors import ConfigError, DataError
from senet.models.registry import get_net
from senet.recipes.recipe import Recipe
from senet.training.module import fewest_images
from senet.training.run import check_batches, train


def on_points(recipe: Recipe, *, batch: int, limit: int = 0, **data: Any) -> Recipe:
    """The recipe with images of 2 pixels, whose last feature map is 1x1."""
    data = {"image_size": 2, "crop": "none", "cutout": 0, "batch_size": batch, "eval_batch_size": 4, **data}
    changed = replace(recipe.data, **data)
    return replace(
        recipe,
        data=changed,
        model=replace(recipe.model, image_size=2, in_channels=changed.channels),
        train=replace(recipe.train, epochs=1, limit_batches=limit),
    )


@pytest.mark.parametrize(
    ("images", "batch", "limit", "is_refused"),
    [
        (100, 1, 0, True),
        (100, 1, 3, True),
        (101, 100, 0, True),
        (101, 100, 5, True),
        (101, 100, 2, True),
        (101, 100, 1, False),
        (101, 10, 10, False),
        (101, 10, 11, True),
        (102, 100, 0, False),
        (100, 100, 0, False),
        (1, 128, 0, True),
        (3, 128, 0, False),
    ],
)
def test_the_smallest_batch_that_is_drawn(
    recipe: Recipe, images: int, batch: int, limit: int, is_refused: bool
) -> None:
    points = on_points(recipe, batch=batch, limit=limit)
    if not is_refused:
        return check_batches(points, images)
    with pytest.raises(ConfigError, match=f"data.batch_size: {batch} of {images} training images gives a batch of one"):
        check_batches(points, images)
    # With a larger feature map one image has several values per channel.
    check_batches(replace(points, data=replace(points.data, image_size=4)), images)


@pytest.mark.parametrize(
    ("name", "side", "fewest"),
    [("resnet20", 4, 2), ("resnet20", 5, 1), ("mobilenet", 32, 2), ("mobilenet", 33, 1), ("vgg16_bn", 32, 1)],
)
def test_the_networks_with_a_point(recipe: Recipe, name: str, side: int, fewest: int) -> None:
    """Their last batch norm is at stride 4, 32 and 16."""
    net = get_net(name)
    data = replace(recipe.data, image_size=side, mean=(0.5,) * 3, std=(0.5,) * 3, crop="none", cutout=0)
    assert fewest_images(replace(recipe, model=net, data=data)) == fewest
    frozen = replace(recipe.train, epochs=2, freeze_bn_epochs=2)
    assert fewest_images(replace(recipe, model=net, data=data, train=frozen)) == 1


@pytest.mark.parametrize(
    ("images", "batch", "processes", "is_refused"),
    # 4 processes have 1, 1, 1 and 2 of 5 images; 0, 0, 1 and 1 of 2; 2 each of 8.
    [(101, 8, 4, True), (104, 8, 4, False), (106, 8, 4, True), (8, 4, 4, True), (12, 6, 3, False), (15, 6, 3, True)],
)
def test_the_smallest_share_of_a_batch(
    recipe: Recipe, images: int, batch: int, processes: int, is_refused: bool
) -> None:
    points = on_points(recipe, batch=batch)
    if is_refused:
        with pytest.raises(ConfigError, match=f"gives one of {processes} processes a batch of one image.*--devices"):
            check_batches(points, images, processes)
        points = replace(points, train=replace(points.train, sync_batch_norm=True))
        if images % batch == 1:
            return
    check_batches(points, images, processes)


def test_no_folder_is_left_behind(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    points = on_points(recipe, batch=99, limit=5)
    with pytest.raises(ConfigError, match="99 of 100 training images"):
        train(points, open_small(points), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def folder_of(tmp_path: Path, broken: list[str]) -> str:
    """Three training and two validation images of two classes; some of them are junk."""
    for part, count in (("train", 3), ("val", 2)):
        for number in range(2):
            for i in range(count):
                path = tmp_path / "images" / part / f"class{number}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                if f"{part}{number}{i}" in broken:
                    path.write_bytes(b"junk")
                else:
                    Image.fromarray(np.full((4, 4), 100 * number + i, np.uint8)).save(path)
    return str(tmp_path / "images")


@pytest.mark.parametrize(
    ("batch", "broken", "left_out"),
    [
        # One of six: in some batch of two, one is left.
        (2, ["train00"], 1),
        (3, ["train00", "train01", "train10", "val00"], None),
        (6, ["train00"], 0),
    ],
)
def test_an_unreadable_image_stops_no_run(
    recipe: Recipe, tmp_path: Path, capsys: Any, batch: int, broken: list[str], left_out: int | None
) -> None:
    points = on_points(
        recipe, batch=batch, name=folder_of(tmp_path, broken), in_memory="no", on_bad_image="skip", workers=0
    )
    result = train(points, open_data(points.data, 0), tmp_path / "run", quiet=True)
    out = capsys.readouterr().out
    if left_out is not None:
        assert (f"left out {left_out} batches of one readable image" in out) == bool(left_out)
        assert result.history[0].train_images == 6 - len(broken) - left_out
    assert len(result.summary.skipped_images) == len(broken)


def test_no_batch_is_left(recipe: Recipe, tmp_path: Path) -> None:
    broken = ["train00", "train01", "train02", "train10", "train11"]
    points = on_points(
        recipe, batch=6, name=folder_of(tmp_path, broken), in_memory="no", on_bad_image="skip", workers=0
    )
    with pytest.raises(DataError, match="no batch has two images that can be read"):
        train(points, open_data(points.data, 0), tmp_path / "run", quiet=True)
