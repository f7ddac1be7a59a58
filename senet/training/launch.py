"""How a run was started, whatever a scheduler or an earlier start left in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from senet import processes
from senet.errors import RunError

TASKS = {
    "SLURM_STEP_NUM_TASKS": "srun --ntasks=1",
    "OMPI_COMM_WORLD_SIZE": "mpirun -n 1",
    "PMI_SIZE": "mpiexec -n 1",
    "JSM_NAMESPACE_SIZE": "jsrun --np 1",
}
"""Variable in which a launcher tells each process how many it started -> how one is started.

SLURM_NTASKS is not among them: a batch script has it too, and is one process.
"""

WORLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch needs to connect processes."""


class Connected(LightningEnvironment):
    """Tells Lightning which processes train: those that torch.distributed connects, or this one alone.

    It keeps Lightning from reading a scheduler's variables.
    """

    def __init__(self) -> None:
        super().__init__()
        # At import Lightning took RANK or SLURM_PROCID for the number of this process, and only number 0 writes.
        self.set_global_rank(processes.rank())
        self.set_world_size(processes.world())

    @property
    def creates_processes_externally(self) -> bool:
        """Whether there are other processes: Lightning starts none."""
        return processes.world() > 1

    def local_rank(self) -> int:
        """The number of this process on its machine."""
        return processes.rank() % local_world()

    def node_rank(self) -> int:
        """The number of its machine."""
        return processes.rank() // local_world()

    def teardown(self) -> None:
        """Leave the environment as it is."""


def local_world() -> int:
    """How many of the connected processes are on this machine; all, where torchrun does not say."""
    if processes.world() == 1:
        return 1
    return int(os.environ.get("LOCAL_WORLD_SIZE") or processes.world())


def check_one_process(environment: Mapping[str, str] = os.environ) -> None:
    """Raise RunError where a launcher started several processes: each would write the same folder."""
    for name, instead in TASKS.items():
        if _count(environment.get(name)) > 1:
            raise RunError(
                f"{name}={environment[name]}: several processes were started that do not know of each other; "
                f"start one: {instead} senet ..., with --devices for more, or unset {name}"
            )
    if all(environment.get(name) for name in WORLD) and _count(environment["WORLD_SIZE"]) > 1:
        raise RunError(
            f"WORLD_SIZE={environment['WORLD_SIZE']}: several processes were started, and together they train one "
            "network (senet train MODEL); start others without torchrun, or unset "
            f"{', '.join(WORLD)}"
        )


def _count(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 1
