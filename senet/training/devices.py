"""Several processes, one for each device: start them, and connect them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, redirect_stdout
from signal import Signals

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from senet.device import pick_device
from senet.errors import ConfigError, RunError, SenetError
from senet.processes import NO_JOB, has_tasks, is_one_of_several, rank

SAVING_S = 60
"""Seconds that processes have to save their state when one of them has ended, or a signal came."""

PATIENCE_S = 2.0
"""Seconds after which a process other than the first says what stopped it: the first says what stopped all."""


def launch(argv: Sequence[str], devices: int, nodes: int = 1, *, device: str = "auto") -> int:
    """Start `senet ARGV` in a process for each device by torch's own launcher, and wait until all have ended.

    Args:
        argv: The command line.
        devices: Processes on this machine.
        nodes: Machines, which SLURM has started this process on, too.
        device: What the processes compute on, a name of `senet.device.DEVICES`.

    Returns:
        The exit status: of the process that failed first, or 128 plus the signal's number.

    Raises:
        ConfigError: This machine has not so many GPUs.
        RunError: A process was killed, or there is no SLURM to find the other machines.
    """
    check_devices(devices, device)
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its own account of a failure is a page long, and the process has said a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # Nor that it looks for parameters without gradients, which is asked for.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        rdzv_endpoint=meeting_place(nodes),
        run_id=os.environ["SLURM_JOB_ID"] if nodes > 1 else NO_JOB,
        max_restarts=0,
        shutdown_timeout=SAVING_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "senet", *argv)
    except SignalException as stopped:
        return 128 + stopped.sigval
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        raise RunError(
            f"process {number} of {devices * nodes} was ended by {Signals(-failure.exitcode).name}, and the others "
            "were stopped; --resume FOLDER continues from the last checkpoint, with any --devices"
        ) from error
    return 0


def check_devices(devices: int, device: str = "auto") -> None:
    """Raise ConfigError where this machine has not so many GPUs."""
    if pick_device(device, field="--device").type == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"--devices: {devices} is too large; expected: at most {torch.cuda.device_count()}, the GPUs")


def meeting_place(nodes: int, environment: Mapping[str, str] = os.environ) -> str:
    """The address at which the machines of a SLURM job find each other; for one machine any free port.

    Raises:
        RunError: `nodes` are not those of a SLURM job in which each machine has one task.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if nodes == 1 and has_tasks(environment):
        raise RunError(
            f"--devices: would start as many in each of the {tasks} tasks that srun started; expected: tasks without "
            "--devices, or one on each machine with --nodes"
        )
    if nodes == 1:
        return "127.0.0.1:0"
    if not environment.get("SLURM_JOB_ID"):
        raise RunError(
            f"--nodes: {nodes} machines are found in a SLURM job, and this is none; elsewhere: torchrun --nnodes "
            f"{nodes} --nproc-per-node N --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m senet train ..."
        )
    found = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    if not found == tasks == str(nodes):
        raise RunError(
            f"--nodes: {nodes}, and SLURM started {tasks or 1} tasks on {found or 1} machines; expected: one on each, "
            f"srun --nodes={nodes} --ntasks-per-node=1 senet train ... --nodes {nodes}"
        )
    return f"{first_machine(environment)}:{_port(environment)}"


def first_machine(environment: Mapping[str, str]) -> str:
    """The name of the first machine of a SLURM step; RunError where SLURM does not tell it."""
    names = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", names], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunError(f"scontrol cannot list the machines of {names}: {error}") from error
    return hosts.stdout.split()[0]


def _port(environment: Mapping[str, str]) -> int:
    """Where the processes of a SLURM step meet: jobs and steps that share a machine, at different ports."""
    return 20_000 + (31 * int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", 0))) % 20_000


def join_tasks(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let the tasks that srun started train together: give them the variables of torchrun. Elsewhere do nothing.

    Raises:
        RunError: A variable of SLURM is missing, or machines have different numbers of tasks.
    """
    if not has_tasks(environment):
        return
    needed = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_JOB_ID")
    for name in needed:
        if not environment.get(name, "").isdecimal():
            raise RunError(
                f"{name}: {environment.get(name, '')!r} is no number, and srun started several processes; start one: "
                "srun --ntasks=1 senet ..., with --devices for more"
            )
    rank, local, tasks, machines, _ = (int(environment[name]) for name in needed)
    if tasks % machines or not local == rank % (tasks // machines):
        raise RunError(
            f"SLURM_STEP_NUM_TASKS: {tasks} tasks on {machines} machines; expected: as many on each and one machine "
            "after the other, srun --ntasks-per-node=N --distribution=block senet ..."
        )
    environment.update(
        RANK=str(rank),
        WORLD_SIZE=str(tasks),
        LOCAL_RANK=str(local),
        LOCAL_WORLD_SIZE=str(tasks // machines),
        MASTER_ADDR="127.0.0.1" if machines == 1 else first_machine(environment),
        MASTER_PORT=str(_port(environment)),
        TORCHELASTIC_RUN_ID=f"slurm-{environment['SLURM_JOB_ID']}",
    )


@contextmanager
def together(device: str = "auto", environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Connect this process with the others that torchrun started, while the body runs; alone, do nothing.

    Only the first prints to standard output. A process that fails ends; what stopped all is said by the first alone.

    Args:
        device: What the body computes on, a name of `senet.device.DEVICES`.
        environment: What torchrun left.

    Raises:
        ConfigError: This machine has fewer GPUs than processes.
        RunError: Another process ended.
    """
    if not is_one_of_several(environment):
        yield
        return
    check_devices(int(environment["LOCAL_WORLD_SIZE"]), device)
    has_gpu = pick_device(device).type == "cuda"
    if has_gpu:
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    number, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    # torchrun may keep its store when it starts processes again, and with it the addresses of those that have ended.
    store, _, _ = next(rendezvous("env://", number, count))
    store = PrefixStore(f"{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}-of-{count}", store)
    # Small numbers are exchanged on the CPU, without waiting for the GPU.
    backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        with _only_the_first():
            yield
    except Exception as error:
        ended = lost(error)
        if not number and ended is not None:
            raise ended from None
        if not number:
            raise
        if signum := getattr(error, "signum", 0):
            raise SystemExit(128 + signum) from None
        time.sleep(PATIENCE_S)
        if ended is None and not isinstance(error, SenetError):
            raise
        print(f"senet: process {number} of {count}: error: {ended or error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
    finally:
        dist.destroy_process_group()


@contextmanager
def _only_the_first() -> Iterator[None]:
    if not rank():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def lost(error: Exception) -> RunError | None:
    """The error in a line, if it is torch's for a process that has gone; else None."""
    signs = ("gloo", "NCCL", "TCPStore", "Connection closed by peer", "Connection reset by peer")
    if isinstance(error, SenetError) or not any(sign in str(error) for sign in signs):
        return None
    return RunError("another process of this run has ended; --resume FOLDER continues from the last checkpoint")
