"""environment.json: the versions and the hardware that figures depend on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from senet.processes import is_restarted, job
from senet.runs.folder import ENVIRONMENT, RECIPE, json_file

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run was trained with.

    Attributes:
        python: Version; so are `torch`, `torchvision` and `lightning`.
        platform: Operating system and its version.
        cpu: Name of the processor.
        cores: Logical processors.
        threads: CPU threads of torch.
        device: Name of the GPU, or "cpu".
        started: Time in UTC, ISO 8601.
        kernels: What computed the blocks' epilogues, see `senet.kernels.dispatch`; "layers": no kernel.
        job: The name of the job that began it, see `senet.processes.job`.
    """

    python: str
    torch: str
    torchvision: str
    lightning: str
    platform: str
    cpu: str
    cores: int | None
    threads: int
    device: str
    started: str
    kernels: str = ""
    job: str = ""


def this_environment(device: torch.device, threads: int = 0, kernels: str = "") -> Environment:
    """The environment of this process.

    Args:
        device: Where the network is.
        threads: CPU threads; 0 for torch's own number.
        kernels: See `Environment`.
    """
    import lightning
    import torch
    import torchvision

    from senet.device import cpu_name

    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        lightning=lightning.__version__,
        platform=platform.platform(),
        cpu=cpu_name(),
        cores=os.cpu_count(),
        threads=threads or torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        kernels=kernels,
        job=job(),
    )


write_environment, read_environment = json_file(Environment, ENVIRONMENT)


def is_continued(folder: Path) -> bool:
    """Whether this process is of the job that began the run of a folder, and was started again, or later than others.

    torchrun counts no restart where a machine is added, so its job is known by its name.
    """
    if not (folder / RECIPE).is_file():
        return False
    before = read_environment(folder)
    return is_restarted() or (before is not None and before.job == job() != "")
