"""Checkpoints that were damaged, losses of NaN, folders in use: one line each, and the run goes on."""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from senet.cli import main
from senet.config import override
from senet.errors import CheckpointError, RunError
from senet.recipes.recipe import Recipe
from senet.runs.checkpoint import read_ckpt
from senet.runs.folder import LAST, NAN, PREVIOUS, SUMMARY
from senet.runs.metrics import read_metrics
from senet.training.callbacks import Interrupted
from senet.training.run import train
from tests.training.test_resume import differences, interrupt, state


@pytest.fixture(name="broken")
def stopped_in_the_second_epoch(recipe: Recipe, open_small: Any, tmp_path: Path) -> Path:
    """A run with a checkpoint of the first epoch and one of the second."""
    data = open_small(recipe)
    interrupt(data, 12, "SIGTERM")
    with pytest.raises(Interrupted):
        train(recipe, data, tmp_path / "broken", quiet=True)
    return tmp_path / "broken"


def flip(path: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "absent"])
def test_the_checkpoint_before_is_taken(
    damage: str,
    broken: Path,
    recipe: Recipe,
    open_small: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    last = broken / LAST
    whole = last.read_bytes()
    if damage == "bit":
        # In a tensor, where no reader looks.
        weight = read_ckpt(last)["state_dict"]["network.classifier.weight"].numpy().tobytes()
        flip(last, whole.index(weight) + 5)
        with pytest.raises(CheckpointError, match=r"last.ckpt: (is damaged|.*)"):
            read_ckpt(last)
    elif damage == "absent":
        last.unlink()
    else:
        last.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    train(recipe, open_small(recipe), broken, quiet=True, resume=True)
    said = capsys.readouterr().out
    assert ("going on from previous.ckpt, the one before" in said) == (damage != "absent")
    train(recipe, open_small(recipe), tmp_path / "unbroken", quiet=True)
    assert differences(state(broken), state(tmp_path / "unbroken")) == []


def test_both_checkpoints_damaged(broken: Path, recipe: Recipe, open_small: Any) -> None:
    for name in (LAST, PREVIOUS):
        (broken / name).write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=PREVIOUS):
        train(recipe, open_small(recipe), broken, quiet=True, resume=True)
    assert not (broken / SUMMARY).exists()


def test_no_flipped_bit_of_the_weights_is_read(broken: Path) -> None:
    """100 bits at random in the file: each is noticed, or does not change what is read."""
    whole, want = (broken / LAST).read_bytes(), read_ckpt(broken / LAST)
    noticed = 0
    for at in random.Random(0).sample(range(len(whole)), 100):
        flip(broken / LAST, at)
        try:
            assert differences(read_ckpt(broken / LAST), want) == []
        except CheckpointError:
            noticed += 1
        (broken / LAST).write_bytes(whole)
    assert noticed > 30


def poison(data: Any, batches: Container[int]) -> None:
    """Make the training images of these batches NaN, counted from 1."""
    prepare, count = data.train.prepare, 0

    def poisoned(batch: Any, device: Any) -> Any:
        nonlocal count
        images, targets = prepare(batch, device)
        count += 1
        return (images * float("nan") if count in batches else images), targets

    data.train.prepare = poisoned


def test_a_loss_of_nan_is_named_and_the_run_goes_on_at_a_lower_rate(
    recipe: Recipe, open_small: Any, tmp_path: Path
) -> None:
    recipe = override(recipe, "train.save_batches=2")
    data = open_small(recipe)
    poison(data, [12])
    folder = tmp_path / "run"
    said = r"epoch 2, batch 5: the training loss is nan; .*run --lr 0.005; without it: --skip-batches 12$"
    with pytest.raises(RunError, match=said):
        train(recipe, data, folder, quiet=True)
    assert len((folder / NAN).read_text().splitlines()) == recipe.data.batch_size
    assert all(t.isfinite().all() for t in read_ckpt(folder / LAST)["state_dict"].values())
    assert read_ckpt(folder / LAST)["place"] == 100 + 4 * 16
    slower = replace(recipe, optim=replace(recipe.optim, lr=0.005))
    train(slower, open_small(slower), folder, quiet=True, resume=True)
    first, second = read_metrics(folder)
    other = train(recipe, open_small(recipe), tmp_path / "other", quiet=True).history
    assert first.lr == other[0].lr
    assert second.lr == pytest.approx(other[1].lr / 10)
    rates = [group["initial_lr"] for group in torch.load(folder / LAST)["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([0.005] * len(rates))


def test_batches_that_are_left_out_change_nothing(recipe: Recipe, open_small: Any, tmp_path: Path) -> None:
    """NaN in the last batches of an epoch, which are left out: the weights of the batch before, momentum or not."""
    states: list[dict[str, torch.Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
            states.append({name: t.clone() for name, t in pl_module.state_dict().items()})

    recipe = override(recipe, "train.epochs=1", "train.ema=0.9")
    train(recipe, open_small(recipe), tmp_path / "whole", quiet=True, callbacks=[Watch()])
    assert len(states) == 7
    recipe = override(recipe, "train.skip_batches=6,7")
    data = open_small(recipe)
    poison(data, range(6, 99))
    history = train(recipe, data, tmp_path / "run", quiet=True).history
    found = read_ckpt(tmp_path / "run" / LAST)["state_dict"]
    assert all(torch.equal(t, found[name]) for name, t in states[4].items())
    assert not all(torch.equal(t, found[name]) for name, t in states[5].items())
    assert history[0].train_images == 5 * 16


@pytest.mark.slow
def test_a_job_that_was_started_again_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command in the same folder: refused, but not where SLURM or torchrun says that it is started again."""
    small = ["--image-size", "8", "--limit-batches", "1", "--batch-size", "16", "--threads", "1", "--epochs", "1"]
    command = ["train", "resnet20", *small, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    (tmp_path / "run" / SUMMARY).unlink()
    assert main(command) == 2
    assert "is not empty and no run is overwritten" in capsys.readouterr().err
    for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"):
        (tmp_path / "run" / SUMMARY).unlink(missing_ok=True)
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert main(command) == 0
        assert (tmp_path / "run" / SUMMARY).is_file()
