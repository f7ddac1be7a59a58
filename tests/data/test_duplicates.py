"""Images that are in two parts are counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.data import open_data
from senet.data.duplicates import duplicates
from senet.recipes.recipe import DataRecipe

RGB = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def write(folder: Path, names: list[str]) -> None:
    g = np.random.default_rng(0)
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(g.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize("in_memory", ["yes", "no"])
def test_duplicates_of_training_images(in_memory: str, tmp_path: Path) -> None:
    write(tmp_path, [f"{part}/{c}/{i}" for part in ("train", "val", "test") for c in "ab" for i in range(3)])
    recipe = DataRecipe(name=str(tmp_path), image_size=16, in_memory=in_memory, resize=16, **RGB)  # type: ignore[arg-type]
    assert duplicates(open_data(recipe, 0)) == []
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "val/b/copy.png")
    assert duplicates(open_data(recipe, 0)) == ["1 of 7 validation images is among the training images too"]
    for i in range(3):
        shutil.copy(tmp_path / f"train/b/{i}.png", tmp_path / f"test/b/again{i}.png")
    assert duplicates(open_data(recipe, 0))[1] == "3 of 9 test images are among the training images too"


def test_equal_pixels_in_other_files(tmp_path: Path) -> None:
    write(tmp_path, [f"{part}/{c}/{i}" for part in ("train", "test") for c in "ab" for i in range(2)])
    Image.open(tmp_path / "train/a/0.png").save(tmp_path / "test/a/0.bmp")
    recipe = DataRecipe(name=str(tmp_path), image_size=16, **RGB)  # type: ignore[arg-type]
    assert duplicates(open_data(recipe, 0)) == ["1 of 5 test images is among the training images too"]
