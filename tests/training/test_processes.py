"""Several processes train what one trains: they share each batch, and gradients are means over all of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.config import override
from senet.recipes.recipe import Recipe
from senet.runs.folder import LAST
from senet.runs.metrics import read_metrics
from tests.training.worker import finish, start, trained_together

pytestmark = pytest.mark.slow


def curve(folder: Path) -> tuple[list[float], list[float]]:
    """The training loss of each epoch, in float64; and the figures that are counted or summed in float32."""
    rows = [asdict(epoch) for epoch in read_metrics(folder)]
    others = [row[name] for row in rows for name in ("lr", "step", "train_images", "eval_images")]
    others += [value for row in rows for value in (row["train"]["error"], *row["measured"].values())]
    return [row["train"]["loss"] for row in rows], others


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


@pytest.fixture
def shared(recipe: Recipe) -> Recipe:
    """Synchronised batch norm, dropout, stochastic depth, MixUp, an average; a last batch of 4 images and of 11."""
    train = replace(recipe.train, sync_batch_norm=True, ema=0.9, drop_path=0.3, label_smoothing=0.1)
    return replace(recipe, data=replace(recipe.data, mixup=0.4, flip=True), train=train)


def check_equal(world: int, recipe: Recipe, tmp_path: Path, strategy: str = "ddp", **settings: Any) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    divided = override(recipe, f"train.strategy={strategy}")
    for folder, count, trained in ((alone, 1, recipe), (together, world, divided)):
        ended = trained_together(count, trained, folder, double=True, **settings)
        assert all(status == 0 for status, _ in ended), ended
    check_same(together, alone)


def check_same(together: Path, alone: Path) -> None:
    assert curve(together)[0] == pytest.approx(curve(alone)[0], rel=0, abs=1e-9)
    assert curve(together)[1] == pytest.approx(curve(alone)[1], rel=1e-6)
    ours, theirs = weights(together), weights(alone)
    assert ours.keys() == theirs.keys()
    for name, t in ours.items():
        torch.testing.assert_close(t, theirs[name], rtol=0, atol=1e-9, msg=name)


def test_two_processes_train_what_one_trains(shared: Recipe, tmp_path: Path) -> None:
    check_equal(2, shared, tmp_path)


def test_processes_without_an_image_take_part(shared: Recipe, tmp_path: Path) -> None:
    """The last of 97 images is alone in its batch."""
    check_equal(2, replace(shared, train=replace(shared.train, accumulate=3, epochs=1)), tmp_path, images=97)


def test_processes_leave_out_the_same_batches(shared: Recipe, tmp_path: Path) -> None:
    """Two of the three batches of a step, and all of a step."""
    check_equal(2, override(shared, "train.accumulate=3", "train.skip_batches=1,3,4,5,6"), tmp_path)


@pytest.mark.parametrize("optim", ["kind=sgd", "kind=adamw"])
def test_processes_with_a_part_of_each_weight_train_what_one_trains(shared: Recipe, tmp_path: Path, optim: str) -> None:
    """The last of 97 images is alone in its batch; each goes on from the other's checkpoint."""
    whole = override(shared, "train.ema=0", "train.epochs=1", "optim.clip_norm=0.5", f"optim.{optim}")
    check_equal(2, whole, tmp_path, strategy="fsdp", images=97)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_divided_weights_go_on_undivided_and_back(shared: Recipe, tmp_path: Path, before: int, after: int) -> None:
    """A run that is killed in mid-epoch ends in another layout, as one process would have ended it."""
    whole = override(shared, "train.ema=0", "train.save_batches=2")
    divided, folder = override(whole, "train.strategy=fsdp"), tmp_path / "broken"
    assert trained_together(1, whole, tmp_path / "alone", double=True)[0][0] == 0
    ended = trained_together(before, divided, folder, double=True, die_at=(9, 10))
    assert all(status < 0 for status, _ in ended), ended
    ended = trained_together(after, divided, folder, double=True, resume=True)
    assert all(status == 0 for status, _ in ended), ended
    check_same(folder, tmp_path / "alone")


EVALUATE = """
from dataclasses import asdict
import torch
from senet.create import create_model
from senet.data import TensorSplit
from senet.evaluation.accuracy import evaluate
from senet.recipes.recipe import DataRecipe
from senet.training.devices import together
from tests.training.conftest import tiny_net

g = torch.Generator().manual_seed(0)
images = torch.randint(0, 256, (10_000, 1, 8, 8), generator=g, dtype=torch.uint8)
targets = torch.randint(0, 10, (10_000,), generator=g)
model = create_model(tiny_net(None), in_channels=1, seed=0)

def measured():
    split = TensorSplit(images, targets, DataRecipe(image_size=8), seed=None)
    return asdict(evaluate(model, split, details=True, batch_size=301))

with together("cpu"):
    shared = measured()
alone = measured()
for name in ("images", "top1_error", "top5_error", "per_class", "confusion", "tempered"):
    assert shared[name] == alone[name], name
assert shared["images"] == 10_000
# Of each batch the loss is summed in float32.
assert abs(shared["loss"] - alone["loss"]) < 1e-6 * alone["loss"], (shared["loss"], alone["loss"])
"""


def test_three_processes_evaluate_what_one_evaluates() -> None:
    """10,000 images in batches of 301, the last of 67: errors, confusion and calibration to the last count."""
    ended = finish(start(3, "-c", EVALUATE))
    assert all(status == 0 for status, _ in ended), ended
