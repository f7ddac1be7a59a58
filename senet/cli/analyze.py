"""`senet analyze`: what the gates of a network do over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.checkpoint import add_checkpoint, add_classes, is_untrained, open_checkpoint
from senet.cli.output import print_json, table
from senet.cli.parse import Parser, data_fields, read_list, with_data
from senet.cli.views import add_part
from senet.errors import ConfigError, unknown
from senet.files import free_name, make_folder
from senet.runs.evaluation import wrong
from senet.runs.gates import worth

if TYPE_CHECKING:
    from senet.analysis.statistics import Gates, UnitGates

DESCRIPTION = """Measure the gates of every unit over the images of a data set, in one pass (section 7.2).

The network is a checkpoint of ours, timm:NAME or torchvision:NAME; those two are drawn at random without --pretrained,
and need --data. Of a detector, an image counts for the class of each of its objects. Writes a folder: gates.npz; as PNG
and SVG the paper's Figures 6 and 7, specificity, entropy and saturation by depth, similarity of units, and the images
that open and close channels; report.html."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("analyze", "CHECKPOINT", DESCRIPTION, base=data_fields)
    add_checkpoint(parser)
    add_part(parser)
    add_classes(parser)
    parser.option(
        "draw",
        metavar="A,B,...",
        help="classes to draw, by default the first four that have images; quote a name with a comma: "
        "'\"tench, Tinca tinca\",pug'",
    )
    parser.option(
        "by", default="class", choices=("class", "size"), help="group a detector's images by class or size of objects"
    )
    parser.option("channels", type=int, default=50, low=1, help="channels of each unit to draw, evenly spread")
    parser.option("images", type=int, default=0, low=0, help="images of each class; 0 for all")
    parser.switch("ablate", help="also the error with gates replaced: 3 passes for each unit")
    parser.option(
        "out",
        default="",
        metavar="FOLDER",
        help="by default RUN/analysis, else analysis/NAME; with --by size RUN/analysis-size",
    )
    parser.device()
    parser.json()
    found = parser.read(argv)
    other = is_untrained(found)
    if other and "data.name" not in found.named:
        raise ConfigError(f"--data: {found['CHECKPOINT']} has no data of its own; name a data set or an image folder")

    checkpoint = open_checkpoint(found, detectors=True)
    recipe = with_data(checkpoint.recipe, found)

    from senet.analysis.analyze import analyze
    from senet.analysis.images import grouped
    from senet.data import open_part
    from senet.device import pick_device
    from senet.report.folder import write_page
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    part = open_part(recipe.data, found["part"], trained_on=checkpoint.trained_on, progress=not found["json"])
    groups, _ = grouped(part, found["by"])
    chosen = _chosen(found["draw"], named(groups), groups)
    folder = _folder(found["out"], found["CHECKPOINT"], recipe.name, "-size" if found["by"] == "size" else "")
    gates, pictures = analyze(
        checkpoint.model,
        checkpoint.classes,
        part,
        recipe.data,
        folder,
        device=device,
        chosen=chosen,
        channels=found["channels"],
        per_class=found["images"],
        by=found["by"],
        ablations=found["ablate"],
        name=recipe.name + (" (random weights)" if other and not found["pretrained"] else ""),
        progress=not found["json"],
    )
    report = write_page(folder)
    if found["json"]:
        files = {"gates": str(folder / "gates.npz"), "report": str(report)}
        print_json(_values(gates) | {"notes": part.notes} | files)
    else:
        _print(gates, folder, len(checkpoint.classes), part.notes)
        print(f"pictures  {', '.join(p.name for p in pictures)}\nreport    {report}")
    return 0


def _chosen(wanted: str, words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Numbers of the classes that a line names, in words or as the data set does, whatever the capitals."""
    known = [{word.lower(), name.lower()} for word, name in zip(words, names, strict=True)]
    # A single class needs no quotes, whatever is in its name.
    alone = any(wanted.lower() in both for both in known)
    typed = [wanted] if alone else read_list(wanted)
    found = []
    for word in typed:
        number = next((i for i, both in enumerate(known) if word.lower() in both), None)
        if number is None:
            some = [*words[:12], "..."] if len(words) > 12 else words
            near = unknown("--draw", word, words, kind="classes")
            raise near if len(words) <= 12 else unknown("--draw", word, some, kind=f"{len(words):,} classes")
        if number in found:
            raise ConfigError(f"--draw: {word!r} is there twice")
        found.append(number)
    return found


def _folder(out: str, checkpoint: str, name: str, suffix: str) -> Path:
    """Where the results go: files of an analysis from before are replaced."""
    source = Path(checkpoint).expanduser()
    label = name.replace(":", "-").replace("/", "-")
    if out:
        return make_folder(Path(out).expanduser())
    run = source / f"analysis{suffix}"
    return make_folder(run if source.is_dir() else free_name(Path("analysis"), f"{label}{suffix}"))


def _row(u: UnitGates) -> dict[str, Any]:
    return {
        "unit": u.name,
        "label": u.label,
        "channels": u.channels,
        "mean": float(u.overall_mean.mean()),
        "below_0.05": float(u.low.mean()),
        "above_0.95": float(u.high.mean()),
        "near_one": float(u.near_one.mean()),
        "specificity": u.specificity,
        "entropy": u.entropy,
        "ablation": u.ablation,
    }


def _values(gates: Gates) -> dict[str, Any]:
    """For a program."""
    return {
        "model": gates.model,
        "source": gates.source,
        "images": gates.images,
        "top1_error": gates.top1_error,
        "classes": [gates.classes[k] for k in gates.chosen],
        "units": [_row(u) for u in gates.units],
        "ablation": gates.ablation,
    }


def _print(gates: Gates, folder: Path, outputs: int, notes: Sequence[str]) -> None:
    error = "" if gates.top1_error is None else f", top-1 error {wrong(gates.top1_error, gates.images)}"
    if error and len(gates.classes) < outputs:
        error += f" among their {len(gates.classes):,} of the network's {outputs:,} classes"
    print(f"{gates.source}\n{gates.model}: {gates.images:,} images{error}")
    print("".join(f"note: {note}\n" for note in notes))
    hows = list(gates.ablation)
    rows: list[tuple[str, ...]] = [
        ("unit", "channels", "mean gate", "< 0.05, %", "> 0.95, %", "near 1, %", "specificity", "entropy, bits")
    ]
    for u in gates.units:
        r = _row(u)
        shares = (f"{100 * r[name]:.1f}" for name in ("below_0.05", "above_0.95", "near_one"))
        rows.append(
            (u.label, f"{u.channels:,}", f"{r['mean']:.3f}", *shares, f"{r['specificity']:.3f}", f"{r['entropy']:.2f}")
        )
    print(table(rows))
    if hows:
        errors = [(u.label, u.ablation) for u in gates.units] + [("all units", gates.ablation)]
        print("\ntop-1 error in percent, with gates replaced by their mean, by those of another image, by one")
        print(table([("unit", *hows), *((name, *(f"{found[how]:.2f}" for how in hows)) for name, found in errors)]))
        print(worth(gates.top1_error, gates.ablation, gates.images))
    print(f"\ngates     {folder}/gates.npz")
