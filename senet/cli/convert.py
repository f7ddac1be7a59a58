"""`senet convert`: another library's weights as a checkpoint of ours, or a network of ours under another's names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli.parse import Parser
from senet.errors import CheckpointError, RunError, unknown
from senet.models.registry import canonical_name

if TYPE_CHECKING:
    from senet.models.network import Network

LIBRARIES = (
    "senet",
    "timm",
    "cadene",
    "segmentation",
    "torchvision",
    "moskomule",
    "mmpretrain",
    "pytorchcv",
    "caffe",
)
"""Whose names weights can have."""

ENDINGS = {"senet": (".safetensors",), "caffe": (".caffemodel",)}
"""How the files end; those of other libraries in any of `USUAL`."""

USUAL = (".safetensors", ".pth", ".pt")

UNTOLD = {"pool": ("ceil", "pad"), "stride_on": ("1x1", "3x3")}
"""Fields of the table that some files cannot tell, and what they can be."""

COUNTED = ("loaded", "renamed", "reshaped", "permuted", "missing", "unused")
"""The parts of the ledger that are counted in JSON."""

DESCRIPTION = """Convert weights, with an account of every tensor: all of them, or none and the reason.

SOURCE is a file (.safetensors, .pth, .bin, .ckpt, .caffemodel), a folder, or a repository of the Hugging Face Hub such
as timm:seresnet50.a1_in1k or hf:owner/name, with @revision and #sha256=... where wanted. Which network it is and whose
names it has is found out. A checkpoint of senet also says how the weights want their images and, for 1,000 classes, the
names of ILSVRC; with it, senet evaluate and senet predict work as after training."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("convert", "SOURCE", DESCRIPTION)
    parser.word("SOURCE", help="a file, a folder, timm:NAME or hf:OWNER/NAME")
    parser.option(
        "to", default="senet", metavar="LIBRARY", help=f"whose names the new file has: {', '.join(LIBRARIES)}"
    )
    parser.option("from", default="", metavar="LIBRARY", help="whose names the source has; by default found out")
    parser.option("model", default="", metavar="NAME", help="the network, see: senet models; by default found out")
    for field, legal in UNTOLD.items():
        says = f"{' or '.join(legal)}: of a network whose file cannot tell it"
        parser.option(field, default="", metavar="|".join(legal), help=says)
    parser.option("out", default="", metavar="FILE", help="the new file; by default NETWORK-LIBRARY and an ending")
    parser.switch("force", help="write over a file that is there")
    parser.switch("table", help="also print what became of each tensor")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    to, name = found["to"], found["model"] and canonical_name(found["model"])
    for option in ("to", "from"):
        if found[option] not in (*LIBRARIES, "" if option == "from" else None):
            raise unknown(f"--{option}", found[option], LIBRARIES)
    fields = {field: found[field] for field in UNTOLD if found[field]}
    for field, value in fields.items():
        if value not in UNTOLD[field]:
            raise unknown(f"--{field.replace('_', '-')}", value, UNTOLD[field])
    endings = ENDINGS.get(to, USUAL)
    out = Path(found["out"]).expanduser() if found["out"] else None
    if out is not None:
        if out.suffix not in endings:
            raise unknown("--out", out.name, endings, kind=f"endings for {to}", says="the ending of {!r} is not known")
        check_free(out, found["force"])

    from senet.weights import files
    from senet.weights.whole import read_network, write_network

    source = files.read(found["SOURCE"])
    name, model, ledger = read_network(source, name=name, convention=found["from"] or None, fields=fields, quiet=True)
    if asked := [field for field in ledger.untold if field not in fields]:
        say = " ".join(f"--{field.replace('_', '-')} {'|'.join(UNTOLD[field])}" for field in asked)
        raise CheckpointError(f"{source.name}: nothing in it tells {' and '.join(asked)} of {name}; say it: {say}")
    out = out or Path(f"{name}-{to}{endings[0]}")
    check_free(out, found["force"])
    notes: tuple[str, ...] = ()
    if to == "senet":
        notes = write_checkpoint(out, name, model, source.classes)
    else:
        write_network(out, model, to)
    if found["json"]:
        counts = {key: len(getattr(ledger, key)) for key in COUNTED}
        told = {"settled": ledger.settled, "notes": (*ledger.notes, *notes)}
        print(
            json.dumps(
                {"model": name, "from": ledger.convention, "to": to, "out": str(out), **counts, **told}, indent=2
            )
        )
        return 0
    print(ledger)
    for note in notes:
        print(f"  note: {note}")
    if found["table"]:
        print(ledger.table())
    parameters = sum(t.numel() for t in model.parameters())
    print(f"{out}: {name}, {parameters:,} parameters, {model.num_classes} classes, names of {to}")
    return 0


def check_free(path: Path, force: bool) -> None:
    """Raise RunError for a file that is there, unless it may be written over."""
    if path.exists() and not force:
        raise RunError(f"{path} is there already; write over it with --force, or name another file with --out")


def write_checkpoint(path: Path, name: str, model: Network, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Write a checkpoint that prepares images as the weights want them; returns what it had to assume."""
    from senet.recipes.recipe import DataRecipe, Recipe
    from senet.runs.checkpoint import save
    from senet.weights import ilsvrc

    net, wanted, notes = model.net, model.preprocessing, []
    if not classes and net.num_classes == 1000:
        classes = ilsvrc.names()
    elif not classes and net.num_classes:
        classes = tuple(map(str, range(net.num_classes)))
        notes.append("the source does not name its classes: they are numbered")
    data = DataRecipe(name="imagenet" if classes == ilsvrc.names() else "images", image_size=net.image_size)
    if wanted is None:
        data = replace(data, mean=data.mean * net.in_channels, std=data.std * net.in_channels)
        notes.append("the source does not say how it wants its images: pixels of 0 to 255 become -1 to 1")
    else:
        # As they were before they were divided by 255.
        mean, std = (tuple(round(255 * value, 6) for value in values) for values in (wanted.mean, wanted.std))
        data = replace(data, mean=mean, std=std, image_size=wanted.image_size, resize=wanted.resize)
        data = replace(data, interpolation=wanted.interpolation)
    save(path, model, recipe=Recipe(name=name, model=net, data=data), classes=classes)
    return tuple(notes)
