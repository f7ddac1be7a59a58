"""Processes that are killed in mid-epoch: the run goes on, in any layout, and no image is lost or repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from senet.config import override
from senet.recipes.recipe import Recipe
from senet.runs.folder import LAST
from senet.runs.metrics import read_metrics
from tests.training.conftest import recipe  # noqa: F401
from tests.training.worker import batches_kept, trained_on, trained_together

pytestmark = pytest.mark.slow
ALL = 9


@pytest.fixture(name="tiny")
def saves_often(recipe: Recipe) -> Recipe:  # noqa: F811
    """A checkpoint every second of 7 batches."""
    return override(replace(recipe, name="tiny"), "train.save_batches=2", "data.flip=true", "train.ema=0.9")


def state(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


@pytest.mark.parametrize(
    ("victim", "batch", "layout"),
    # In the first epoch and in the second; one process of two and both; elsewhere and as before.
    [(1, 6, (1, 0)), (0, 12, (2, 0)), (ALL, 4, (2, 1)), (ALL, 10, (3, 0))],
)
def test_a_killed_run_goes_on(tiny: Recipe, tmp_path: Path, victim: int, batch: int, layout: tuple[int, int]) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    logs = {name: tmp_path / f"{name}.log" for name in ("whole", "broken", "resumed")}
    assert all(status == 0 for status, _ in trained_together(2, tiny, whole, log=str(logs["whole"])))
    ended = trained_together(2, tiny, broken, workers=1, log=str(logs["broken"]), die_at=(victim, batch))
    assert [status < 0 for status, _ in ended] == [victim in (rank, ALL) for rank in range(2)], ended
    assert all(status < 0 or "another process of this run has ended" in line for status, line in ended)
    kept = batches_kept(broken, tiny)
    assert 2 <= kept < batch
    world, workers = layout
    ended = trained_together(world, tiny, broken, workers=workers, log=str(logs["resumed"]), resume=True)
    assert all(status == 0 for status, _ in ended), ended
    found = trained_on(logs["broken"], before=kept) + trained_on(logs["resumed"])
    assert sorted(found) == trained_on(logs["whole"])
    assert len(found) == 2 * 100
    if world == 2:
        assert all(torch.equal(t, state(broken)[name]) for name, t in state(whole).items())


def test_torchrun_starts_again_what_was_killed(tmp_path: Path) -> None:
    """One process of two is killed; with --max-restarts both go on from the last checkpoint."""
    folder = tmp_path / "run"
    command = "--nproc-per-node 2 --max-restarts 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 -m senet train"
    small = "resnet20 --data digits --image-size 8 --train-fraction 0.1 --epochs 12 --threads 1 --device cpu --out"
    words = [sys.executable, "-m", "torch.distributed.run", *command.split(), *small.split(), str(folder)]
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    agent = subprocess.Popen(words, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not ((folder / LAST).is_file() and len(read_metrics(folder)) > 1):
            assert agent.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        said = agent.communicate(timeout=300)[0]
    finally:
        agent.kill()
    assert agent.returncode == 0, said
    assert [epoch.epoch for epoch in read_metrics(folder)] == list(range(1, 13))
    assert said.count("2 processes share each batch") == 2
    assert said.count("epoch   2/12") == 1
