"""`senet doctor`: check that the attention units of a trained network are active and well placed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from senet.cli.output import print_json
from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError

DESCRIPTION = """Find units that never run, are misplaced, have saturated gates, get no gradient, or overflow.

Noise shows most faults; saturated gates need real images: --data. The exit status is 1 if there are faults. For any
other network, use senet.doctor(model) in Python."""

EXAMPLES = (
    "senet doctor runs/pair-digits/runs/se_resnet20-seed0",
    "senet doctor runs/pair-digits/runs/se_resnet20-seed0 --data digits",
    "senet doctor net.safetensors --data photos --json",
)

IMAGES = 16
"""Number of images, spread over all classes."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("doctor", "CHECKPOINT", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=("data.name",))
    parser.checkpoint()
    parser.device()
    parser.json()
    line = parser.read(argv)
    if line.named and "data.name" not in line.named:
        raise ConfigError(f"--{line.named[0]}: has no effect on noise; choose images with --data")

    import torch

    from senet.device import pick_device
    from senet.diagnosis.doctor import doctor
    from senet.runs.checkpoint import load

    checkpoint = load(Path(line["CHECKPOINT"]).expanduser())
    recipe = with_data(checkpoint.recipe, line)
    device = pick_device(line["device"], field="--device")
    images, source = None, "noise; real images show more: --data"
    if line.named:
        from senet.data import open_data

        data = open_data(recipe.data, recipe.train.seed, progress=True)
        some = (
            torch.linspace(0, len(data.val) - 1, min(IMAGES, len(data.val)), dtype=torch.float32, device="cpu")
            .long()
            .tolist()
        )
        images, _ = data.val.prepare(data.val[(0, some)], device)
        source = f"{len(some)} of {data.held_out}"
    report = doctor(checkpoint.model.to(device), images)
    if line["json"]:
        print_json({"model": checkpoint.recipe.name, "images": source, "healthy": report.healthy, **asdict(report)})
    else:
        print(f"{checkpoint.recipe.name} on {source}\n\n{report}")
    return 0 if report.healthy else 1
