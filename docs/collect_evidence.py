"""Collect what `senet reproduce` left in folders into docs/evidence: each target's result, and every run's epochs.

python docs/collect_evidence.py runs/reproduce-student-cifar10 runs/reproduce-ablations-cifar10
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

EVIDENCE = Path(__file__).parent / "evidence"
COLUMNS = (
    "run",
    "epoch",
    "lr",
    "train_loss",
    "train_error",
    "test_loss",
    "test_top1_error",
    "test_top5_error",
    "seconds",
)


def collect(folder: Path) -> None:
    """Copy one folder's results; its runs go into NAME-runs.csv, their machine into NAME-environment.json."""
    EVIDENCE.mkdir(exist_ok=True)
    for found in json.loads((folder / "reproduction.json").read_text())["targets"]:
        for ending in ("md", "json", "png"):
            shutil.copyfile(folder / f"{found['target']}.{ending}", EVIDENCE / f"{found['target']}.{ending}")
    runs = sorted((folder / "runs").iterdir())
    with open(EVIDENCE / f"{folder.name}-runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for run in runs:
            for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()):
                writer.writerow({"run": run.name, **row})
    machine = json.loads((runs[0] / "environment.json").read_text())
    (EVIDENCE / f"{folder.name}-environment.json").write_text(json.dumps(machine, indent=2) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        collect(Path(name))
