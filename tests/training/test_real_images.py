"""Networks on the real images of SENET_TEST_DATA: CIFAR-10 in memory, Imagenette through worker processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet.data import FileSplit, TensorSplit, open_data
from senet.data.images import cpus
from senet.recipes.recipe import Recipe
from senet.recipes.registry import recipe_for
from senet.training.run import train

pytestmark = pytest.mark.data


def short(recipe: Recipe, **data: Any) -> Recipe:
    return replace(
        recipe,
        data=replace(recipe.data, **data),
        train=replace(recipe.train, epochs=1, limit_batches=4),
        optim=replace(recipe.optim, lr=0.01),
    )


def test_se_resnet20_trains_on_cifar10(real_images: Path, tmp_path: Path) -> None:
    recipe = short(recipe_for(str(real_images / "cifar10"), model="se_resnet20"))
    data = open_data(recipe.data, 0)
    assert isinstance(data.train, TensorSplit)
    assert (len(data.train), len(data.measured), len(data.classes)) == (50_000, 10_000, 10)
    result = train(recipe, data, tmp_path / "run", quiet=True)
    assert result.history[-1]["step"] == 4
    assert result.history[-1].train["loss"] < 3


def test_se_resnet18_trains_on_imagenette_through_workers(real_images: Path, tmp_path: Path) -> None:
    recipe = short(recipe_for(str(real_images / "imagenette"), model="se_resnet18"), batch_size=8, eval_batch_size=8)
    data = open_data(recipe.data, 0)
    assert isinstance(data.train, FileSplit)
    assert (recipe.data.image_size, len(data.train), len(data.val)) == (224, 9_469, 3_925)
    assert data.train.workers == min(2, cpus())
    result = train(recipe, data, tmp_path / "run", quiet=True)
    assert result.history[-1]["step"] == 4
    assert result.history[-1].train["loss"] < 4
