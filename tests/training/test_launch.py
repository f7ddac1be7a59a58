"""What schedulers and launchers leave in the environment: one process trains, or one line says why not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senet.cli import main
from senet.errors import RunError
from senet.processes import is_one_of_several
from senet.recipes.recipe import Recipe
from senet.runs.folder import BEST, LAST, SUMMARY
from senet.training.devices import join_tasks, meeting_place
from senet.training.launch import check_one_process
from senet.training.run import train

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NAME": "t", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM |= {"SLURM_NODEID": "0", "SLURM_NODELIST": "node[1-2]"}
LSF = {"LSB_JOBID": "7", "LSB_HOSTS": "a b", "LSB_DJOB_RANKFILE": "/none", "JSM_NAMESPACE_RANK": "1"}
LEFT_OVERS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "3", "GROUP_RANK": "1"}
PBS = {
    "PBS_NODEFILE": "/none",
    "PBS_ENVIRONMENT": "PBS_BATCH",
    "NODE_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
}
ELASTIC = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
KUBEFLOW = {"KUBERNETES_PORT": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1", "WORLD_SIZE": "1", "RANK": "0"}


@pytest.mark.parametrize("variables", [SLURM, LSF, LEFT_OVERS, PBS, ELASTIC, KUBEFLOW])
def test_one_process_trains(
    recipe: Recipe, open_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    # What Lightning sets at import where RANK or SLURM_PROCID is 3: only number 0 would write.
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    recipe = replace(recipe, train=replace(recipe.train, epochs=1))
    assert len(train(recipe, open_small(recipe), tmp_path / "run", quiet=True).history) == 1
    assert all((tmp_path / "run" / name).is_file() for name in (BEST, LAST, SUMMARY))
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, "SLURM_STEP_NUM_TASKS=4: several processes .*srun --ntasks=1"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=2: .*mpirun -n 1"),
        ({"PMI_SIZE": "16", "PMI_RANK": "3"}, "PMI_SIZE=16"),
        ({"JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_RANK": "1"}, "JSM_NAMESPACE_SIZE=6"),
        (LEFT_OVERS | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "WORLD_SIZE=4: .*without torchrun"),
    ],
)
def test_several_processes_do_not_train(
    recipe: Recipe,
    open_small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    line: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=line):
        train(recipe, open_small(recipe), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


TORCHRUN = LEFT_OVERS | {"MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "x"}


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        (TORCHRUN, True),
        (ELASTIC, False),
        (LEFT_OVERS, False),
        (SLURM, False),
        (TORCHRUN | {"WORLD_SIZE": "1"}, False),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": ""}, False),
        (TORCHRUN | {"MASTER_ADDR": ""}, False),
    ],
)
def test_all_of_torchruns_variables_make_one_of_several(variables: dict[str, str], several: bool) -> None:
    assert is_one_of_several(variables) == several


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "--nodes: 2 machines are found in a SLURM job, and this is none; elsewhere: torchrun --nnodes 2 "),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}, "SLURM started 1 tasks on 2 machines; .*--ntasks-per-node=1"),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "8"}, "started 8 tasks on 2 machines"),
        ({"SLURM_JOB_ID": "7", "SLURM_NNODES": "3", "SLURM_STEP_NUM_TASKS": "3"}, "started 3 tasks on 3 machines"),
    ],
)
def test_machines_that_cannot_meet(variables: dict[str, str], line: str) -> None:
    with pytest.raises(RunError, match=line):
        meeting_place(2, variables)


def test_one_machine_meets_at_any_port() -> None:
    assert meeting_place(1, {}) == meeting_place(1, SLURM) == "127.0.0.1:0"
    with pytest.raises(RunError, match="--devices: would start as many in each of the 6 tasks"):
        meeting_place(1, STEP)


STEP = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}
STEP |= {"SLURM_PROCID": "4", "SLURM_LOCALID": "4"}


def test_the_tasks_of_srun_are_told_what_torchrun_would_tell() -> None:
    environment = dict(STEP)
    join_tasks(environment)
    assert is_one_of_several(environment)
    expected = {"RANK": "4", "WORLD_SIZE": "6", "LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "6", "MASTER_ADDR": "127.0.0.1"}
    assert {name: environment[name] for name in expected} == expected
    for alone in ({}, SLURM, STEP | {"SLURM_STEP_NUM_TASKS": "1"}):
        environment = dict(alone)
        join_tasks(environment)
        assert environment == alone


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"SLURM_PROCID": ""}, "SLURM_PROCID: '' is no number"),
        ({"SLURM_LOCALID": "a"}, "SLURM_LOCALID: 'a' is no number"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS: 'many' is no number"),
        ({"SLURM_STEP_NUM_NODES": "4"}, "6 tasks on 4 machines; expected: as many on each"),
        # Tasks that are dealt out to machines in turn.
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "2"}, "6 tasks on 2 machines; .*--distribution=block"),
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "a,b"}, "scontrol cannot list"),
    ],
)
def test_tasks_of_srun_that_cannot_meet(change: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    environment = STEP | change
    with pytest.raises(RunError, match=line):
        join_tasks(environment)
    assert environment == STEP | change


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("train --nodes 2", "--nodes: is for one network; name it as MODEL, or spread a pair by --jobs and --devices"),
        ("train resnet20 --devices 2 --budget 1h", "--budget: is for one device"),
        ("train resnet20 --devices 0", "--devices: 0 is too small; expected: 1 or more"),
        ("train resnet20 --nodes 2", "--nodes: 2 machines are found in a SLURM job, and this is none"),
        ("train resnet20 --sync-batch-norm --fused", "train.sync_batch_norm: true needs train.fused=false"),
        ("train resnet20 --strategy fsdp --ema 0.9", "train.strategy: 'fsdp' needs train.ema=0.0, and it is 0.9"),
        ("train resnet20 --strategy fsdp --freeze-epochs 1", "'fsdp' needs train.freeze_epochs=0, and it is 1"),
        ("train resnet20 --strategy fsdp --precision fp16", "'fsdp' does not scale the loss of fp16"),
        ("compare resnet20 se_resnet20 --nodes 2", "--nodes"),
        ("compare resnet20 se_resnet20 --devices 0", "--devices: 0 is too small; expected: 1 or more"),
        ("train --devices 2 --budget 1h", "--budget: is for one device; choose --epochs"),
        ("reproduce table4 --data digits --devices 2 --budget 1h", "--budget: is for one device; choose --epochs"),
    ],
)
def test_devices_that_are_refused(
    command: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), *([] if "--nodes" in command else ["--epochs", "1"])]) == 2
    err = capsys.readouterr().err
    assert line in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["", "1", "many", "-3"])
def test_no_number_above_one_is_one_process(value: str) -> None:
    check_one_process(dict.fromkeys(("SLURM_STEP_NUM_TASKS", "PMI_SIZE", "WORLD_SIZE"), value))


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("compare resnet20 se_resnet20", {"SLURM_STEP_NUM_TASKS": "4"}),
        ("train --seeds 2", {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}),
        ("train se_resnet20", {"PMI_SIZE": "2"}),
        ("reproduce table4", {"OMPI_COMM_WORLD_SIZE": "3"}),
    ],
)
def test_nothing_is_written_by_one_of_several_processes(
    command: str,
    variables: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*command.split(), "--data", "digits", "--epochs", "1", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert "several processes were started" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
