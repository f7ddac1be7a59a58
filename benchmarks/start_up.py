"""The processor time of what should answer at once, in fresh processes, interleaved, against its limit.

    python -m benchmarks.start_up [--repeats 5] [--json FILE]

Prints the median over the repeats, their range and the machine. Exit status 1 where a median is above its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from senet.device import cpu_name

COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "senet models": (["-m", "senet", "models"], 1.0),
    "senet info se_resnet50": (["-m", "senet", "info", "se_resnet50"], 1.0),
    "senet train --learning-rate 1": (["-m", "senet", "train", "--learning-rate", "1"], 0.5),
    "senet reproduce table4 --plan": (["-m", "senet", "reproduce", "table4", "--plan"], None),
}
"""Name -> the arguments of Python, and the limit of the median in seconds."""

IMPORT = "import time, torch; start = time.process_time(); import senet; print(time.process_time() - start)"
"""Timed within one process: importing torch varies by more than senet takes."""

IMPORT_LIMIT_S = 0.05


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """User and system time of one process and its children."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds of each command, in rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for arguments, _ in COMMANDS.values():
            # Once before: the files are in the page cache afterwards and the bytecode is written.
            cpu_seconds(arguments, folder)
        for _ in range(repeats):
            for name, (arguments, _) in COMMANDS.items():
                seconds[name].append(cpu_seconds(arguments, folder))
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    seconds = measure(args.repeats)
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, n = {args.repeats}")
    print(f"{'processor time, s':32}{'median':>8}{'low':>8}{'high':>8}{'limit':>8}")
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    is_late = False
    for name, found in seconds.items():
        limit = COMMANDS[name][1]
        is_late |= limit is not None and medians[name] > limit
        print(f"{name:32}{medians[name]:8.2f}{min(found):8.2f}{max(found):8.2f}{'' if limit is None else limit:>8}")
    imports = [
        float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)
        for _ in range(args.repeats)
    ]
    extra = statistics.median(imports)
    print(f"{'import senet, after torch':32}{extra:8.4f}{min(imports):8.4f}{max(imports):8.4f}{IMPORT_LIMIT_S:>8}")
    if args.json:
        args.json.write_text(
            json.dumps({"machine": machine, "seconds": seconds | {"import senet, after torch": imports}}, indent=2)
            + "\n"
        )
    return 1 if is_late or extra > IMPORT_LIMIT_S else 0


if __name__ == "__main__":
    raise SystemExit(main())
