"""How long runs will take: what is measured, and by hand what is made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from senet.data import Counts
from senet.recipes.recipe import Recipe
from senet.training import estimate


def test_the_cost_of_an_image_is_measured(recipe: Recipe) -> None:
    train, evaluate = estimate.seconds_per_image(recipe, torch.device("cpu"), threads=1)
    assert 0 < evaluate < train < 1
    # Four times the pixels and channels cost more.
    large = replace(recipe, data=replace(recipe.data, image_size=64))
    assert estimate.seconds_per_image(large, torch.device("cpu"), threads=1)[0] > train


def test_an_epoch_by_hand(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """2 ms an image to train and 1 ms to evaluate; a cost is measured once for each network, batch and precision."""
    measured = []
    monkeypatch.setattr(estimate, "seconds_per_image", lambda r, *of: measured.append(r) or (0.002, 0.001))
    cut = replace(recipe, train=replace(recipe.train, limit_batches=3))
    wide = replace(recipe, data=replace(recipe.data, batch_size=2 * recipe.data.batch_size))
    found = estimate.epoch_seconds({"all": recipe, "cut": cut, "wide": wide}, lambda _: Counts(7, 50_000, 10_000))
    d = recipe.data
    assert found["all"] == found["wide"] == pytest.approx(110)
    assert found["cut"] == pytest.approx(3 * (0.002 * d.batch_size + 0.001 * d.eval_batch_size))
    assert [r.data.batch_size for r in measured] == [d.batch_size, 2 * d.batch_size]
    assert measured[0].model.num_classes == 7
    assert estimate.run_seconds(110, 2) == 228
