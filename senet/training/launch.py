"""How a run was started: as one process, whatever a scheduler or an earlier start left in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

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

TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torch needs to connect processes; some of them alone are left-overs of an earlier start."""


class OneProcess(LightningEnvironment):
    """Tells Lightning that this process trains alone, and keeps it from reading a scheduler's variables."""

    def __init__(self) -> None:
        super().__init__()
        # At import Lightning took RANK or SLURM_PROCID for the number of this process, and only number 0 writes.
        self.set_global_rank(0)

    @property
    def creates_processes_externally(self) -> bool:
        """False: nobody else starts processes of this run."""
        return False

    def local_rank(self) -> int:
        """0."""
        return 0

    def node_rank(self) -> int:
        """0."""
        return 0

    def teardown(self) -> None:
        """Leave the environment as it is."""


def check_one_process(environment: Mapping[str, str] = os.environ) -> None:
    """Raise RunError where a launcher started several processes: each would write the same folder."""
    for name, instead in TASKS.items():
        if _count(environment.get(name)) > 1:
            raise RunError(
                f"{name}={environment[name]}: several processes were started, and a run is trained by one; "
                f"start one: {instead} senet ..., or unset {name}"
            )
    if all(environment.get(name) for name in TORCHRUN) and _count(environment["WORLD_SIZE"]) > 1:
        raise RunError(
            f"WORLD_SIZE={environment['WORLD_SIZE']}: several processes were started, and a run is trained by one; "
            f"start senet without torchrun, or unset {', '.join(TORCHRUN)}"
        )


def _count(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 1
