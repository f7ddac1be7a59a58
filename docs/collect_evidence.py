"""Collect what `senet reproduce` left in folders into docs/evidence: each target's result, and every run's epochs.

python docs/collect_evidence.py runs/reproduce-student-cifar10 runs/reproduce-ablations-cifar10
"""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from senet.experiments.result import read_results
from senet.runs.folder import ENVIRONMENT, RUNS, write_value
from senet.runs.metrics import read_metrics

EVIDENCE = Path(__file__).parent / "evidence"
COLUMNS = (
    "run",
    "epoch",
    "lr",
    "train_loss",
    "train_error",
    "eval_loss",
    "eval_top1_error",
    "eval_top5_error",
    "seconds",
)


def collect(folder: Path) -> None:
    """Copy one folder's results; its runs go into NAME-runs.csv, their machine into NAME-environment.json."""
    EVIDENCE.mkdir(exist_ok=True)
    for result in read_results(folder):
        shutil.copyfile(folder / f"{result.name}.md", EVIDENCE / f"{result.name}.md")
        write_value(EVIDENCE / f"{result.name}.json", result)
    runs = sorted((folder / RUNS).iterdir())
    with open(EVIDENCE / f"{folder.name}-runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for run in runs:
            for epoch in read_metrics(run):
                writer.writerow({"run": run.name, **asdict(epoch)})
    shutil.copyfile(runs[0] / ENVIRONMENT, EVIDENCE / f"{folder.name}-environment.json")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        collect(Path(name))
