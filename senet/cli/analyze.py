"""`senet analyze`: what the gates of a network do over a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.output import table
from senet.cli.parse import Parser, data_fields, with_data
from senet.errors import ConfigError, RunError, unknown
from senet.files import free_name
from senet.foreign_models import is_foreign, load_foreign
from senet.recipes.recipe import DataRecipe, Recipe
from senet.recipes.registry import recipe_for

if TYPE_CHECKING:
    from torch import nn

    from senet.analysis.statistics import Gates, UnitGates

DESCRIPTION = """Measure the gates of every unit over the held-out images of a data set, in one pass (section 7.2).

The network is a checkpoint of ours, timm:NAME or torchvision:NAME; those two are drawn at random without --pretrained,
and need --data. Writes a folder: gates.npz; as PNG and SVG the paper's Figures 6 and 7, specificity, entropy and
saturation by depth, similarity of units, and the images that open and close channels; report.html."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("analyze", "CHECKPOINT", DESCRIPTION, base=data_fields)
    parser.word("CHECKPOINT", help="a run folder, a .safetensors of senet, timm:NAME or torchvision:NAME")
    parser.option("classes", default="", metavar="A,B,...", help="classes to draw; by default the first four")
    parser.option("channels", type=int, default=50, help="channels of each unit to draw, evenly spread")
    parser.option("images", type=int, default=0, help="images of each class; 0 for all")
    parser.switch("ablate", help="also the error with gates replaced: 3 passes for each unit")
    parser.switch("pretrained", help="the weights that timm or torchvision released")
    parser.option("out", default="", metavar="FOLDER", help="by default RUN/analysis, else analysis/NAME")
    parser.option("device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    for name, least in (("channels", 1), ("images", 0)):
        if found[name] < least:
            raise ConfigError(f"--{name}: {found[name]} is too small; expected: {least} or more")
    other = is_foreign(found["CHECKPOINT"], found["pretrained"])
    if other and "data.name" not in found.named:
        raise ConfigError(f"--data: {found['CHECKPOINT']} has no data of its own; name a data set or an image folder")

    model, recipe, outputs = _foreign(found["CHECKPOINT"], found["pretrained"]) if other else _own(found["CHECKPOINT"])
    recipe = with_data(recipe, found)

    from senet.analysis.analyze import analyze
    from senet.data import open_data
    from senet.device import pick_device
    from senet.report.folder import write_page
    from senet.weights.ilsvrc import named

    device = pick_device(found["device"], field="--device")
    data = open_data(recipe.data, recipe.train.seed, progress=True)
    folder = _folder(found["out"], found["CHECKPOINT"], recipe.name)
    gates, pictures = analyze(
        model,
        outputs,
        data,
        recipe.data,
        folder,
        device=device,
        chosen=_chosen(found["classes"], named(data.classes), data.classes),
        channels=found["channels"],
        images=found["images"],
        ablations=found["ablate"],
        name=recipe.name + (" (random weights)" if other and not found["pretrained"] else ""),
        progress=not found["json"],
    )
    report = write_page(folder)
    if found["json"]:
        print(json.dumps(_values(gates) | {"gates": str(folder / "gates.npz"), "report": str(report)}, indent=2))
    else:
        _print(gates, folder)
        print(f"pictures  {', '.join(p.name for p in pictures)}\nreport    {report}")
    return 0


def _own(checkpoint: str) -> tuple[nn.Module, Recipe, Sequence[str]]:
    """The network of a checkpoint, its recipe, and the classes of its outputs."""
    from senet.runs.checkpoint import load

    loaded = load(Path(checkpoint).expanduser())
    return loaded.model, loaded.recipe, loaded.classes


def _foreign(source: str, pretrained: bool) -> tuple[nn.Module, Recipe, Sequence[str]]:
    """A network of another library; of the recipe only the data counts."""
    found = load_foreign(source, pretrained=pretrained)
    data = DataRecipe().with_preprocessing(found.preprocessing)
    return found.model, replace(recipe_for("digits"), name=found.name, data=data), found.classes


def _chosen(wanted: str, words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Numbers of the classes that a line names, in words or as the data set does, whatever the capitals."""
    found = []
    for word in filter(None, (w.strip() for w in wanted.split(","))):
        number = next(
            (i for i, both in enumerate(zip(words, names, strict=True)) if word.lower() in _lower(both)), None
        )
        if number is None:
            some = [*words[:12], "..."] if len(words) > 12 else words
            near = unknown("--classes", word, words, kind="classes")
            raise near if len(words) <= 12 else unknown("--classes", word, some, kind=f"{len(words):,} classes")
        if number in found:
            raise ConfigError(f"--classes: {word!r} is there twice")
        found.append(number)
    return found


def _lower(words: Sequence[str]) -> list[str]:
    return [word.lower() for word in words]


def _folder(out: str, checkpoint: str, name: str) -> Path:
    """Where the results go: files of an analysis from before are replaced."""
    source = Path(checkpoint).expanduser()
    label = name.replace(":", "-").replace("/", "-")
    folder = (
        Path(out).expanduser()
        if out
        else source / "analysis"
        if source.is_dir()
        else free_name(Path("analysis"), label)
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to the folder {folder}: {error.strerror}") from error
    return folder


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


def _print(gates: Gates, folder: Path) -> None:
    error = "" if gates.top1_error is None else f", top-1 error {gates.top1_error:.2f} %"
    print(f"{gates.source}\n{gates.model}: {gates.images:,} images{error}\n")
    hows = list(gates.ablation)
    rows: list[tuple[str, ...]] = [
        ("unit", "channels", "mean gate", "< 0.05", "> 0.95", "near 1", "specificity", "entropy, bits", *hows)
    ]
    for u in gates.units:
        r = _row(u)
        shares = (f"{100 * r[name]:.1f} %" for name in ("below_0.05", "above_0.95", "near_one"))
        errors = (f"{u.ablation[how]:.2f} %" for how in hows)
        numbers = (f"{r['specificity']:.3f}", f"{r['entropy']:.2f}")
        rows.append((u.label, f"{u.channels:,}", f"{r['mean']:.3f}", *shares, *numbers, *errors))
    if hows:
        rows.append(("all units", *[""] * 7, *(f"{gates.ablation[how]:.2f} %" for how in hows)))
    print(table(rows))
    if hows:
        print("off, mean, shuffled: top-1 error with a unit's gates one, their mean, another image's")
    print(f"\ngates     {folder}/gates.npz")
