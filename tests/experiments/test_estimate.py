"""How long runs will take: what is measured, what is made of it by hand, and what is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from senet.data import Counts
from senet.experiments import estimate
from senet.experiments.experiment import Experiment, Row
from senet.recipes.recipe import Recipe

CPU = torch.device("cpu")


def test_the_cost_of_an_image_is_measured(recipe: Recipe) -> None:
    train, evaluate = estimate.seconds_per_image(recipe, CPU, threads=1)
    assert train > 0
    assert evaluate > 0


def test_an_epoch_by_hand(recipe: Recipe) -> None:
    """2 ms an image to train and 1 ms to evaluate."""
    counts = Counts(7, 50_000, 10_000)
    assert estimate.epoch_cost(recipe, counts, 0.002, 0.001) == pytest.approx(110)
    cut = replace(recipe, train=replace(recipe.train, limit_batches=3))
    d = recipe.data
    want = 3 * (0.002 * d.batch_size + 0.001 * d.eval_batch_size)
    assert estimate.epoch_cost(cut, counts, 0.002, 0.001) == pytest.approx(want)


def test_a_cost_is_measured_once_for_all_that_it_depends_on(recipe: Recipe) -> None:
    key = estimate.timing_key(recipe, CPU, 1)
    longer = replace(recipe, name="other", train=replace(recipe.train, epochs=9, seed=5))
    assert estimate.timing_key(longer, CPU, 1) == key
    others = [
        replace(recipe, data=replace(recipe.data, batch_size=8)),
        replace(recipe, train=replace(recipe.train, precision="bf16")),
        replace(recipe, model=replace(recipe.model, se=None)),
    ]
    keys = {estimate.timing_key(r, CPU, 1) for r in others} | {estimate.timing_key(recipe, CPU, 2), key}
    assert len(keys) == 5


def test_costs_are_remembered_and_told(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = estimate.EpochClock([recipe])
    file = tmp_path / "senet" / "timings.json"
    kept = json.loads(file.read_text())
    (key,) = kept["by_key"]
    # 1,438 digits to train with and 359 to test.
    file.write_text(json.dumps(kept | {"by_key": {key: [0.01, 0.001]}}))
    assert measured(recipe) != 14.739
    clock = estimate.EpochClock([replace(recipe, train=replace(recipe.train, epochs=5))])
    assert clock(recipe) == pytest.approx(14.739)
    experiment = Experiment(name="e", title="t", rows=(Row(name="a", recipe=recipe),), seeds=(0, 1))
    # Two runs of 8 s to begin and two epochs.
    assert estimate.time_left([experiment], tmp_path, clock) == ["about 75 s on this CPU; an epoch of tiny 15 s"]
    file.write_text("{")
    with pytest.raises(Exception, match=r"timings.json: cannot be read: .*; delete it"):
        estimate.EpochClock([recipe])
