"""The queue keeps finished runs, notes failed ones, resumes interrupted ones; side by side it does the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.data import open_data
from senet.errors import DataError
from senet.experiments import queue
from senet.processes import rank
from senet.recipes.recipe import Recipe
from senet.runs.folder import LAST, SUMMARY
from senet.runs.metrics import read_metrics
from senet.runs.recipe_file import write_recipe
from senet.runs.summary import read_summary
from senet.training.callbacks import Interrupted
from tests.training.conftest import small


def open_few(recipe: Any, seed: int) -> Any:
    return small(open_data(recipe, seed))


def seeded(recipe: Recipe, *seeds: int) -> dict[str, Recipe]:
    return {f"s{seed}": replace(recipe, train=replace(recipe.train, seed=seed)) for seed in seeds}


def test_finished_runs_are_kept_and_failed_ones_noted(recipe: Recipe, tmp_path: Path) -> None:
    wild = replace(recipe, optim=replace(recipe.optim, lr=1e30))
    told: list[tuple[str, str]] = []
    runs = {"wild": wild, **seeded(recipe, 0)}
    done = queue.run_all(runs, tmp_path, open_data=open_few, say=lambda *of: told.append(of))
    assert list(done.summaries) == ["s0"]
    assert "loss is" in done.failed["wild"]
    assert told == [("wild", done.failed["wild"]), ("s0", "done")]

    opened: list[int] = []
    before = (tmp_path / "s0" / SUMMARY).stat().st_mtime_ns
    again = queue.run_all(
        {**seeded(recipe, 0), **seeded(recipe, 1)},
        tmp_path,
        open_data=lambda *of: opened.append(of[1]) or open_few(*of),
    )
    assert opened == [1]
    assert again.summaries["s0"] == done.summaries["s0"]
    assert (tmp_path / "s0" / SUMMARY).stat().st_mtime_ns == before


def test_a_signal_stops_the_queue_and_it_goes_on_exactly(recipe: Recipe, tmp_path: Path) -> None:
    unbroken = queue.run_all(seeded(recipe, 0, 1), tmp_path / "unbroken", open_data=open_few)
    calls = []

    def stopping(*of: Any) -> Any:
        data = open_few(*of)
        prepare = data.train.prepare

        def counted(batch: Any, device: Any) -> Any:
            calls.append(1)
            if len(calls) == 17:  # in the second run
                os.kill(os.getpid(), signal.SIGTERM)
            return prepare(batch, device)

        data.train.prepare = counted
        return data

    with pytest.raises(Interrupted, match=f"saved in {tmp_path / 'whole'}"):
        queue.run_all(seeded(recipe, 0, 1), tmp_path / "broken", open_data=stopping, part_of=tmp_path / "whole")
    assert [read_summary(tmp_path / "broken" / name) is None for name in ("s0", "s1")] == [False, True]
    done = queue.run_all(seeded(recipe, 0, 1), tmp_path / "broken", open_data=open_few)
    for name in ("s0", "s1"):
        assert done.summaries[name].measured == unbroken.summaries[name].measured


SIDE_BY_SIDE = """
import json, sys
from dataclasses import replace
from pathlib import Path
from senet.runs.recipe_file import read_recipe
from senet.experiments.queue import run_all
from tests.experiments.test_queue import open_few, seeded

if __name__ == "__main__":
    recipe = read_recipe(Path(sys.argv[1]))
    say = lambda *of: print(*of, flush=True)
    how = {"jobs": 2, "devices": int(sys.argv[3])}
    done = run_all(seeded(recipe, 0, 1), Path(sys.argv[2]), open_data=open_few, say=say, **how)
    print(json.dumps({name: dict(s.measured) for name, s in done.summaries.items()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_side_by_side_is_the_same_also_after_a_signal(recipe: Recipe, tmp_path: Path, devices: int) -> None:
    """Two runs; Ctrl-C, which comes to all processes, stops both, saved; called again, all is as one after the other.

    Killed, the first takes the others with it: called again they would train into the same folders. Where one of the
    others is killed, that run alone has failed.
    """
    # They cannot stop after any batch: there is time for each to hear of the signal twice.
    recipe = replace(recipe, train=replace(recipe.train, accumulate=4))
    alone = queue.run_all(seeded(recipe, 0, 1), tmp_path / "alone", open_data=open_few, devices=devices)
    assert not alone.failed
    long = tmp_path / "recipe.yaml"
    write_recipe(long, recipe)
    script = tmp_path / "side.py"
    script.write_text(SIDE_BY_SIDE)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(long), str(tmp_path / "side"), str(devices)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    options: Any = {"env": environment, "cwd": root, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def begun(process: Any) -> None:
        while not list((tmp_path / "side").glob("*/last.ckpt")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    endless = tmp_path / "endless.yaml"
    write_recipe(endless, replace(recipe, train=replace(recipe.train, epochs=1000)))
    process = subprocess.Popen[bytes]([*command[:2], str(endless), *command[3:]], **options)
    begun(process)
    process.kill()
    # Their standard error is ours, so that its end is theirs.
    process.communicate(timeout=20)
    shutil.rmtree(tmp_path / "side")
    process = subprocess.Popen[bytes](command, start_new_session=True, **options)
    begun(process)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 1, out
    assert b"Interrupted" in errors
    assert b"interrupted, saved" in out
    assert b"status" not in out
    again = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    losses = json.loads(again.stdout.splitlines()[-1])
    assert losses == {name: dict(s.measured) for name, s in alone.summaries.items()}
    for name in losses:
        ours, theirs = (weights(tmp_path / part / name) for part in ("side", "alone"))
        assert all(torch.equal(ours[key], t) for key, t in theirs.items())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / LAST, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_in_several_processes_is_that_of_train(recipe: Recipe, tmp_path: Path) -> None:
    """Bit for bit, with batch norm's statistics of each process."""
    recipe = replace(recipe, data=replace(recipe.data, mixup=0.4), train=replace(recipe.train, limit_batches=5))
    write_recipe(tmp_path / "one.yaml", recipe)
    done = queue.run_all({"one": recipe}, tmp_path, devices=2)
    assert not done.failed
    words = ("train", "--config", "one.yaml", "--devices", "2", "--out", "train", "--json")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    trained = subprocess.run(
        [sys.executable, "-m", "senet", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert trained.returncode == 0, trained.stderr
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "train")
    assert all(torch.equal(ours[key], t) for key, t in theirs.items())
    assert len(read_metrics(tmp_path / "one")[-1].data_seconds) == 2
    assert json.loads(trained.stdout)["measured"] == dict(done.summaries["one"].measured)


def fail_in_the_other(recipe: Any, seed: int) -> Any:
    if rank() and seed == 1:
        raise DataError("a.jpg: cannot be read")
    if rank() and seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_few(recipe, seed)


@pytest.mark.slow
def test_the_reason_of_the_process_that_failed_is_kept(recipe: Recipe, tmp_path: Path) -> None:
    done = queue.run_all(seeded(recipe, 1, 2, 0), tmp_path, open_data=fail_in_the_other, devices=2)
    killed = "its process was killed; is there enough memory for so many --jobs?"
    assert done.failed == {"s1": "a.jpg: cannot be read", "s2": killed}
    assert list(done.summaries) == ["s0"]


def die_with_the_second(recipe: Any, seed: int) -> Any:
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_few(recipe, seed)


@pytest.mark.slow
def test_a_process_that_is_killed_takes_no_other_with_it(recipe: Recipe, tmp_path: Path) -> None:
    done = queue.run_all(seeded(recipe, 1, 0), tmp_path, open_data=die_with_the_second, jobs=2)
    assert list(done.summaries) == ["s0"]
    assert done.failed == {"s1": "its process was killed; is there enough memory for so many --jobs?"}


@pytest.mark.gpu
def test_each_process_has_a_gpu_of_those_that_may_be_seen(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    count = torch.cuda.device_count()
    assert queue.gpus_for(count + 1, [recipe]) == [*map(str, range(count)), "0"]


def test_processes_on_the_cpu_have_no_gpu(recipe: Recipe) -> None:
    on_cpu = replace(recipe, train=replace(recipe.train, device="cpu"))
    assert queue.gpus_for(2, [on_cpu]) == ["", ""]
