"""`senet doctor`: whether the attention units of a trained network are alive and in their place."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError

DESCRIPTION = """Look for units that never run, sit in the wrong place, have gates stuck, get no gradient, or overflow.

Noise shows most of it; whether gates are stuck is a question to real images: --data. Exit status 1 where there are
faults. For any other network, in Python: senet.doctor(model)."""

IMAGES = 16
"""Of a data set, spread over all its classes."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("doctor", "CHECKPOINT", DESCRIPTION, base=data_fields)
    parser.word("CHECKPOINT", help="a run folder, a .safetensors of senet, or a last.ckpt")
    parser.option("device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    if found.named and "data.name" not in found.named:
        raise ConfigError(f"--{found['named'][0]}: has no effect on noise; choose images with --data")

    from senet.runs.checkpoint import load

    checkpoint = load(Path(found["CHECKPOINT"]).expanduser())
    recipe = with_data(checkpoint.recipe, found)

    import torch

    from senet.device import pick_device
    from senet.diagnosis.doctor import doctor

    device = pick_device(found["device"], field="--device")
    images, source = None, "noise; real images say more: --data"
    if found.named:
        from senet.data import open_data

        data = open_data(recipe.data, recipe.train.seed, progress=True)
        some = torch.linspace(0, len(data.val) - 1, min(IMAGES, len(data.val))).long().tolist()
        images, _ = data.val.prepare(data.val[(0, some)], device)
        source = f"{len(some)} of {data.held_out}"
    report = doctor(checkpoint.model.to(device), images)
    if found["json"]:
        values = {"model": checkpoint.recipe.name, "images": source, "healthy": report.healthy, **asdict(report)}
        print(json.dumps(values, indent=2))
    else:
        print(f"{checkpoint.recipe.name} on {source}\n\n{report}")
    return 0 if report.healthy else 1
