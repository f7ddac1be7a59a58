"""`senet doctor`: check that the attention units of a trained network are active and well placed."""

from __future__ import annotations

from dataclasses import asdict, replace

from senet.cli.checkpoint import add_checkpoint, is_untrained, open_checkpoint
from senet.cli.output import print_json, table
from senet.cli.parse import Parser, data_fields, with_data
from senet.cli.views import add_part
from senet.errors import ConfigError, DataError

DESCRIPTION = """Find units that never run, are misplaced, have saturated gates, get no gradient, or overflow.

On images of the run's own data, or of --data; noise, where there are none, shows most faults but saturated gates. Of a
detector, the trunk is checked. The exit status is 1 if there are faults. For any other network, use senet.doctor(model)
in Python."""

EXAMPLES = (
    "senet doctor runs/pair-digits/runs/se_resnet20-seed0",
    "senet doctor timm:seresnet50 --pretrained --data photos",
    "senet doctor net.safetensors --data photos --json",
)

IMAGES = 16
"""Number of images, spread over all classes."""

FEW = 4
"""Number of images of a detector, which are larger."""


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("doctor", "CHECKPOINT", DESCRIPTION, base=data_fields, examples=EXAMPLES, common=("data.name",))
    add_checkpoint(parser)
    add_part(parser)
    parser.device()
    parser.json()
    line = parser.read(argv)
    is_noise = is_untrained(line) and "data.name" not in line.named
    if is_noise and (given := [*line.named, *(["part"] if line["part"] else [])]):
        raise ConfigError(f"--{given[0]}: has no effect on noise; choose images with --data")

    import torch

    from senet.device import pick_device
    from senet.diagnosis.doctor import doctor

    checkpoint = open_checkpoint(line, detectors=True)
    recipe = with_data(checkpoint.recipe, line)
    device = pick_device(line["device"], field="--device")
    images, source, part = None, "noise", None
    notes: tuple[str, ...] = ("noise; real images show more: --data",) if is_noise else ()
    if not is_noise:
        try:
            from senet.data import open_part

            part = open_part(recipe.data, line["part"], trained_on=checkpoint.trained_on, progress=not line["json"])
        except DataError as error:
            if line.named or line["part"]:
                raise
            notes = (f"noise, since its own images are not here: {error}",)
        except ModuleNotFoundError:
            if line.named or line["part"]:
                raise
            notes = ("noise; its own images need an extra: pip install 'senet[train]'",)
    if part is not None:
        n = len(part.split)
        few = FEW if checkpoint.recipe.task.name == "detection" else IMAGES
        some = torch.linspace(0, n - 1, min(few, n), dtype=torch.float32, device="cpu").long().tolist()
        images, _ = part.split.prepare(part.split[(0, some)], device)
        if isinstance(images, list):
            from senet.detection.build import batch_of

            images = batch_of(images)
        source, notes = f"{len(some)} of {part.words}", part.notes
    report = doctor(checkpoint.model.to(device), images)
    if line["json"]:
        print_json({"model": checkpoint.recipe.name, "images": source, "healthy": report.healthy, **asdict(report)})
    else:
        _, *rest = str(replace(report, units=())).splitlines()
        shown = [f"note: {note}" for note in notes]
        on = f"{report.verdict.rpartition(', on ')[0]}, on {source}" if part is not None else report.verdict
        print(f"{checkpoint.recipe.name}: {on}", *shown, *rest, sep="\n")
        if report.units:
            print("", table(report.rows, left=(0, 1)), sep="\n")
    return 0 if report.healthy else 1
