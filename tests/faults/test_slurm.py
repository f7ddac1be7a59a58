"""A real SLURM: tasks train together, and a job that is stopped and requeued goes on.

Where there is none, `benchmarks/slurm_node.sh` starts one of one node.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from senet.runs.folder import LAST, SUMMARY
from senet.runs.metrics import read_metrics

SENET = [sys.executable, "-m", "senet"]
TRAIN = ["train", "resnet20", "--data", "digits", "--image-size", "8", "--train-fraction", "0.1", "--threads", "1"]
TRAIN += ["--device", "cpu"]


def why_no_slurm() -> str:
    """Why no job can be started here; "" where one can."""
    if not shutil.which("srun"):
        return "no SLURM: srun is not installed"
    said = subprocess.run(["sinfo", "--noheader", "--format=%D %t"], capture_output=True, text=True)
    return "" if "idle" in said.stdout or "mix" in said.stdout else f"no SLURM with a free node: {said}"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_no_slurm()), reason=why_no_slurm())]


def srun(tasks: int, *command: str) -> subprocess.CompletedProcess[str]:
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["srun", f"--ntasks={tasks}", *SENET, *command], capture_output=True, text=True, env=own, timeout=500
    )


def wait_until(is_so: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_tasks_train_together(tmp_path: Path) -> None:
    ended = srun(3, *TRAIN, "--epochs", "1", "--out", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("3 processes share each batch") == 1
    assert ended.stdout.count("report ") == 1
    assert "Warning" not in ended.stderr
    measured = srun(2, "evaluate", str(tmp_path / "run"), "--device", "cpu", "--json")
    alone = srun(1, "evaluate", str(tmp_path / "run"), "--device", "cpu", "--json")
    # One process prints, and its figures are those of one.
    found, expected = json.loads(measured.stdout), json.loads(alone.stdout)
    assert found["top1_error"] == expected["top1_error"]
    assert found["images"] == expected["images"]


@pytest.mark.parametrize(
    ("tasks", "command", "line"),
    [
        (2, ["train", "resnet20", "--devices", "2"], "would start as many in each of the 2 tasks"),
        (2, ["compare", "resnet20", "se_resnet20"], "several processes were started that do not know of each other"),
        (1, ["train", "resnet20", "--nodes", "2"], "--nodes: 2, and SLURM started 1 tasks on 1 machines"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, tasks: int, command: list[str], line: str) -> None:
    ended = srun(tasks, *command, "--device", "cpu", "--out", str(tmp_path / "run"))
    assert ended.returncode == 2
    assert line in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_one_task_starts_devices(tmp_path: Path) -> None:
    ended = srun(1, *TRAIN, "--epochs", "1", "--devices", "2", "--nodes", "1", "--out", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    assert "2 processes share each batch" in ended.stdout


JOB = """#!/bin/bash
#SBATCH --ntasks=2 --requeue --open-mode=append --output={log}
srun {command}
status=$?
[ $status -ne 143 ] || scontrol requeue $SLURM_JOB_ID
exit $status
"""


@pytest.mark.parametrize("how", ["scancel --signal=TERM", "scontrol requeue"])
def test_a_requeued_job_goes_on(tmp_path: Path, how: str) -> None:
    """A scheduler's SIGTERM saves; the same job, started again, trains the epochs that are left."""
    folder, log, script = tmp_path / "run", tmp_path / "log", tmp_path / "job.sh"
    command = " ".join([*SENET, *TRAIN, "--epochs", "40", "--out", str(folder)])
    script.write_text(JOB.format(log=log, command=command))
    own = os.environ | {"OMP_NUM_THREADS": "1"}
    job = subprocess.run(["sbatch", "--parsable", script], capture_output=True, text=True, check=True, env=own)
    number = job.stdout.strip()

    def state() -> str:
        said = subprocess.run(["squeue", "-h", "-j", number, "-o", "%t"], capture_output=True, text=True)
        return said.stdout.strip()

    try:
        wait_until(lambda: (folder / LAST).is_file() and len(read_metrics(folder)) > 1)
        subprocess.run([*how.split(), number], check=True)
        wait_until(lambda: state() == "PD")
        assert not (folder / SUMMARY).is_file()
        assert "stopped by SIGTERM; saved in" in log.read_text()
        # SLURM waits two minutes.
        subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)
        wait_until(lambda: state() in ("", "CG"))
    finally:
        subprocess.run(["scancel", number], check=False, capture_output=True)
    assert (folder / SUMMARY).is_file(), log.read_text()
    assert [epoch.epoch for epoch in read_metrics(folder)] == list(range(1, 41))
    # The epochs before the signal were not trained again.
    assert log.read_text().count("epoch   2/40") == log.read_text().count("epoch  40/40") == 1
