"""What 8 bits cost trained networks in accuracy, and give in size and time, as a table.

    python -m benchmarks.int8 --out int8.jsonl runs/digits runs/cifar       # run folders of `senet train`
    python -m benchmarks.int8 --out int8.jsonl --table                      # what is there, as Markdown

Training images calibrate, held-out ones are measured. All sides of a network run in shuffled rounds of one process on
one thread, whose own time is taken. A network that is in the file is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from torch import Tensor

import senet
from senet.bench.measure import Subject, measure
from senet.data import Split, open_part
from senet.deploy.engines import run_in
from senet.deploy.int8 import quantize_onnx
from senet.deploy.onnx import export_onnx

FORMS: dict[str, dict[str, Any]] = {
    "8 bits, all layers": {"most_changed": 1.0},
    "8 bits within 1 %": {},
    "8 bits within 1 %, zero points of 0": {"zero_points": "zero"},
}


def some(split: Split, count: int) -> tuple[list[Tensor], Tensor]:
    """So many images, spread over all classes, in batches; and their labels."""
    places = torch.linspace(0, len(split) - 1, min(count, len(split)), dtype=torch.float64).long()
    pairs = [split.prepare(split[(0, few.tolist())], torch.device("cpu")) for few in places.split(50)]
    return [x for x, _ in pairs], torch.cat([y for _, y in pairs])


def measured(run: str, calibration: int, count: int, rounds: int) -> dict[str, Any]:
    """Everything about one network."""
    checkpoint = senet.load(run)
    data = checkpoint.recipe.data
    images, _ = some(open_part(data, "train").split, calibration)
    held_out = open_part(data, trained_on=checkpoint.trained_on)
    x, y = some(held_out.split, count)
    one = x[0][:1]
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_onnx(checkpoint.model, path, one)
        files = {"float in ONNX Runtime": ("onnxruntime", path)}
        rows["float in ONNX Runtime"] = {}
        for i, (name, given) in enumerate(FORMS.items()):
            out, start = Path(folder) / f"{i}.onnx", process_time()
            rows[name] = asdict(quantize_onnx(path, out, images, **given)) | {"seconds": process_time() - start}
            files[name] = ("onnxruntime", out)
        files["8 bits within 1 %, OpenVINO"] = ("openvino", files["8 bits within 1 %"][1])
        rows["8 bits within 1 %, OpenVINO"] = dict(rows["8 bits within 1 %"])
        calls = {name: run_in(engine, file.read_bytes()) for name, (engine, file) in files.items()}
        exact: Tensor | None = None
        for name, call in calls.items():
            classes = torch.cat([call(batch)[0].argmax(1) for batch in x])
            exact = classes if exact is None else exact
            found = {"wrong": int((classes != y).sum()), "same": int((classes == exact).sum())}
            rows[name] |= found | {"bytes": files[name][1].stat().st_size}
    ours = senet.optimize(checkpoint.model, one)
    subjects = [Subject(name="float in our kernels", make=lambda: partial(ours, one))]
    subjects += [Subject(name=name, make=lambda call=call: lambda: call(one)[0]) for name, call in calls.items()]
    case = measure(subjects, repeats=rounds, min_seconds=0.02, clock=process_time, progress=sys.stderr.isatty())
    rows = {"float in our kernels": {key: rows["float in ONNX Runtime"][key] for key in ("wrong", "same")}} | rows
    for row in case.rows:
        if row.failure:
            raise SystemExit(f"{row.name}: {row.failure}")
        rows[row.name]["ms"] = row.median_ms
    about = {"network": checkpoint.recipe.name, "data": Path(data.name).name}
    about |= {"size": one.shape[-1], "calibration": sum(map(len, images)), "images": len(y), "rounds": rounds}
    return about | {"held_out": held_out.words, "rows": rows}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """What was measured, by run folder."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {found["run"]: found for found in map(json.loads, lines)}


def table(path: Path) -> str:
    """Markdown, a line for each network and form."""
    lines = ["| | layers in float | error, % | same class, % | MB | ms |", "|---|--:|--:|--:|--:|--:|"]
    for found in read(path).values():
        n = found["images"]
        lines.append(f"| **{found['network']}**, {found['data']}, {found['size']} px, n = {n:,} | | | | | |")
        for name, row in found["rows"].items():
            kept = f"{len(row['kept'])} of {row['layers']}" if "kept" in row else ""
            mb = f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else ""
            error, same = 100 * row["wrong"] / n, 100 * row["same"] / n
            lines.append(f"| {name} | {kept} | {error:.2f} | {same:.2f} | {mb} | {row['ms']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not in the file yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=128, help="training images that calibrate")
    parser.add_argument("--images", type=int, default=2000, help="held-out images that are measured")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--table", action="store_true")
    line = parser.parse_args()
    if line.table:
        print(table(line.out))
        return
    torch.set_num_threads(1)
    for run in line.runs:
        if run in read(line.out):
            continue
        found = {"run": run} | measured(run, line.calibration, line.images, line.rounds)
        with line.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(f"{found['network']}: {found['rows']}", flush=True)


if __name__ == "__main__":
    main()
