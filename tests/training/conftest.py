"""A tiny network, a tiny recipe and the real digits: a run takes a second."""

from __future__ import annotations

from dataclasses import replace

import pytest

from senet.config import UnitConfig
from senet.data import Data, TensorSplit, open_data
from senet.models.net import ResidualNet, Stage, Stem
from senet.recipes.recipe import DataRecipe, OptimRecipe, Recipe, ScheduleRecipe, TrainRecipe
from senet.units.config import SEConfig


def tiny_net(se: UnitConfig | None) -> ResidualNet:
    return ResidualNet(
        stem=Stem(width=4, kernel=3, stride=1),
        pool="none",
        stages=(
            Stage(block="basic", depth=1, mid=4, out=4),
            Stage(block="basic", depth=1, mid=8, out=8, stride=2),
        ),
        shortcut="zero_pad",
        se=se,
        image_size=8,
        dropout=0.2,
    )


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures have their own tests, and one takes as long as a run of the tiny network."""
    for where in ("run", "callbacks"):
        monkeypatch.setattr(f"senet.training.{where}.plot_curves", lambda path, runs: None)


@pytest.fixture
def recipe() -> Recipe:
    """SE network of 1,400 parameters; 100 digits of 8x8 pixels in 7 batches of 16 or fewer; 2 epochs."""
    return Recipe(
        name="tiny",
        model=tiny_net(SEConfig(reduction=2)),
        data=DataRecipe(batch_size=16, eval_batch_size=32, image_size=8, crop="pad", crop_padding=1, cutout=2),
        optim=OptimRecipe(lr=0.05, nesterov=True, decay="weights"),
        schedule=ScheduleRecipe(kind="cosine", warmup_epochs=0.5),
        # More threads than one only wait for each other on maps this small.
        train=TrainRecipe(epochs=2, threads=1),
    )


@pytest.fixture
def plain(recipe: Recipe) -> Recipe:
    return replace(recipe, name="plain", model=tiny_net(None))


def small(data: Data, n: int = 100, m: int = 40) -> Data:
    """The first images of each part."""
    parts = {}
    for name, split, k in (("train", data.train, n), ("val", data.val, m)):
        assert isinstance(split, TensorSplit)
        parts[name] = TensorSplit(split.images[:k], split.targets[:k], split.recipe, split.seed)
    return replace(data, **parts)


@pytest.fixture
def open_small():
    """`open_small(recipe)`: a small part of the digits for a recipe."""
    return lambda recipe: small(open_data(recipe.data, recipe.train.seed))
