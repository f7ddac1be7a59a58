"""`senet convert`: another library's weights as a checkpoint of ours, or a network of ours under another's names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli.output import check_free, print_json
from senet.cli.parse import Parser
from senet.errors import CheckpointError, unknown
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
    "akamaster",
    "chenyaofo",
    "caffe",
)
"""The libraries whose names weights can have."""

ENDINGS = {"senet": (".safetensors",), "caffe": (".caffemodel",)}
"""Endings of the file that is written; for other libraries those in `USUAL`."""

USUAL = (".safetensors", ".pth", ".pt")

UNKNOWN_FIELDS = {"pool": ("ceil", "pad"), "stride_on": ("1x1", "3x3"), "shortcut": ("zero_pad", "zero_pad_both")}
"""Fields of the network's table that some files do not tell, and their values."""

COUNTED = ("loaded", "renamed", "reshaped", "permuted", "missing", "unused")
"""The parts of the load report that the JSON counts."""

DESCRIPTION = """Convert weights between libraries: every tensor, or none and the reason.

SOURCE is a file of PyTorch, safetensors, NumPy (.npz) or Caffe, whatever its ending; a folder; or a repository of the
Hugging Face Hub such as timm:seresnet50.a1_in1k or hf:owner/name, optionally with @revision and #sha256=... Of several
networks in a file, averaged weights are taken; FILE#KEY takes those at a key. The network and the naming convention are
found from the names and shapes. A checkpoint of senet also states the preprocessing and the classes
(those of ILSVRC if there are 1,000), so senet evaluate and senet predict take it."""

EXAMPLES = (
    "senet convert timm:seresnet50.a1_in1k",
    "senet convert se_resnet50-e.pth --from cadene --out se_resnet50.safetensors",
    "senet convert se_resnet50.safetensors --to torchvision --table",
)


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("convert", "SOURCE", DESCRIPTION, examples=EXAMPLES)
    parser.word("SOURCE", help="a file, a folder, timm:NAME or hf:OWNER/NAME")
    parser.option(
        "to",
        default="senet",
        metavar="LIBRARY",
        choices=LIBRARIES,
        help=f"library to write for: {', '.join(LIBRARIES)}",
    )
    parser.option("from", metavar="LIBRARY", choices=LIBRARIES, help="library of the source; by default detected")
    parser.option("model", metavar="NAME", help="the network, see: senet models; by default detected")
    for field, values in UNKNOWN_FIELDS.items():
        parser.option(field, choices=values, help="for files that do not tell")
    parser.option(
        "allow", metavar="NAMES", help="tensors that may be missing or unused, with commas: neck,features.*.se"
    )
    parser.option("out", metavar="FILE", help="file to write; by default NETWORK-LIBRARY and an ending")
    parser.switch("force", help="overwrite an existing file")
    parser.switch("table", help="also print a line per tensor")
    parser.json()
    found = parser.read(argv)
    to, name = found["to"], found["model"] and canonical_name(found["model"])
    fields = {field: found[field] for field in UNKNOWN_FIELDS if found[field]}
    endings = ENDINGS.get(to, USUAL)
    out = Path(found["out"]).expanduser() if found["out"] else None
    if out is not None:
        if out.suffix not in endings:
            raise unknown("--out", out.name, endings, kind=f"endings for {to}", says="the ending of {!r} is not known")
        check_free(out, found, "name another file with --out")

    from senet.weights import files
    from senet.weights.export import write_network
    from senet.weights.identify import read_network

    source = files.read(found["SOURCE"])
    allow = tuple(found["allow"].split(",")) if found["allow"] else ()
    name, model, report = read_network(
        source, name=name, convention=found["from"] or None, fields=fields, allow=allow, quiet=True
    )
    if asked := [field for field in report.unknown_fields if field not in fields]:
        say = " ".join(f"--{field.replace('_', '-')} {'|'.join(UNKNOWN_FIELDS[field])}" for field in asked)
        raise CheckpointError(f"{source.name}: does not tell {' and '.join(asked)} of {name}; add {say}")
    out = out or Path(f"{name}-{to}{endings[0]}")
    check_free(out, found, "name another file with --out")
    notes: tuple[str, ...] = ()
    if to == "senet":
        notes = write_checkpoint(out, name, model, source.header.classes if source.header else ())
    else:
        write_network(out, model, to)
    if found["json"]:
        counts = {key: len(getattr(report, key)) for key in COUNTED}
        told = {"changed": report.changed, "notes": (*report.notes, *notes)}
        print_json({"model": name, "from": report.convention, "to": to, "out": str(out), **counts, **told})
        return 0
    print(report)
    for note in notes:
        print(f"  note: {note}")
    if found["table"]:
        print(report.table())
    parameters = sum(t.numel() for t in model.parameters())
    print(f"{out}: {name}, {parameters:,} parameters, {model.num_classes} classes, names of {to}")
    return 0


def write_checkpoint(path: Path, name: str, model: Network, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Write a checkpoint of senet; returns notes on what had to be assumed."""
    from senet.runs.checkpoint import save, untrained_recipe
    from senet.weights import ilsvrc

    net, notes = model.net, []
    if not classes and net.num_classes == 1000:
        classes = ilsvrc.names()
    elif not classes and net.num_classes:
        classes = tuple(map(str, range(net.num_classes)))
        notes.append("the source does not name its classes: they are numbered")
    if model.preprocessing is None:
        notes.append("the source does not state its preprocessing: pixels are scaled from -1 to 1")
    save(path, model, recipe=untrained_recipe(name, net, model.preprocessing, classes), classes=classes)
    return tuple(notes)
