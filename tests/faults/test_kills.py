"""Processes that are killed in mid-epoch: the run goes on, in any layout, and no image is lost or repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.config import override
from senet.recipes.recipe import Recipe
from senet.runs.folder import LAST
from senet.runs.metrics import read_metrics
from tests.training.worker import batches_kept, free_port, trained_on, trained_together, written

pytestmark = pytest.mark.slow
ALL = 9


@pytest.fixture(name="tiny")
def saves_often(recipe: Recipe) -> Recipe:
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


def test_machines_come_and_go(tiny: Recipe, tmp_path: Path) -> None:
    """A second torchrun joins the first, and all of it is killed: each image of each epoch is trained on once.

    The first machine must stay: it has torchrun's store.
    """
    tiny = override(tiny, "train.epochs=6")
    folder, slow, port = tmp_path / "run", tmp_path / "slow", free_port()
    assert trained_together(1, tiny, tmp_path / "whole", log=str(tmp_path / "whole.log"))[0][0] == 0
    slow.touch()
    settings = written(tiny, folder, log=str(tmp_path / "log"), slow=str(slow))
    elastic = f"--nnodes 1:2 --nproc-per-node 1 --max-restarts 2 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port}"
    words = [sys.executable, "-m", "torch.distributed.run", *elastic.split(), "--rdzv-conf", "last_call_timeout=1"]
    words += ["--rdzv-id", "job-7", "-m", "tests.training.worker", str(settings)]

    def starts() -> list[tuple[int, int, Path]]:
        """When, with how many batches of the run done, and the log, of each start."""
        return sorted((int(p.suffixes[-2][1:]), int(p.suffixes[-1][1:]), p) for p in tmp_path.glob("log.*"))

    def has(path: Path, line: str) -> bool:
        return any(row.endswith(line) for row in path.read_text().splitlines())

    def until(is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert all(agent.poll() is None for agent in agents), [agent.communicate() for agent in agents]
            time.sleep(0.05)

    own = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    options: Any = {"env": own, "stderr": subprocess.PIPE, "text": True}
    agents = [subprocess.Popen[str](words, **options)]
    try:
        until(lambda: (folder / LAST).is_file())
        agents.append(subprocess.Popen[str](words, **options))
        until(lambda: len(starts()) == 2 and has(starts()[-1][2], " 3 1"))
        other = agents.pop()
        workers = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
        for process in (other.pid, *map(int, workers)):
            os.kill(process, signal.SIGKILL)
        other.communicate()
        slow.unlink()
        said = agents[0].communicate(timeout=300)[1]
    finally:
        for agent in agents:
            agent.kill()
    assert agents[0].returncode == 0, said
    alone, both, again = starts()
    assert 0 == alone[1] < both[1] < again[1]
    assert [has(path, " 1") for _, _, path in (alone, both, again)] == [False, True, False]
    found = [
        *trained_on(alone[2], before=both[1]),
        *trained_on(both[2], before=again[1] - both[1]),
        *trained_on(again[2]),
    ]
    assert sorted(found) == trained_on(tmp_path / "whole.log")
    assert len(found) == 6 * 100
