"""`senet info`: what a network is made of, what it costs, and what of that is SE's."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from senet.cli import options
from senet.cli.line import Line
from senet.cli.show import table
from senet.errors import ConfigError
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net

DESCRIPTION = """Parameters, multiply-adds, SE's share of both, and a table by stage like the paper's Table 1.

Multiply-adds are those of convolutions and fully connected layers, the SE units' included. Fields of the network can
be set: --se.reduction 8, --stride-on 3x3, --num-classes 10, --se eca.

faster_rcnn_fpn_NETWORK is that network as the trunk of a Faster R-CNN with a feature pyramid (Table 7), 81 classes, one
image of 800 x 1344 pixels and 1000 boxes. A run folder or a checkpoint stands for the network that was trained."""

DETECTOR = "faster_rcnn_fpn_"


def run(argv: list[str]) -> int:
    """The command."""
    line = Line.of(argv)
    words = line.words
    if len(words) != 1 and not line.asks_help:
        raise ConfigError("name one network, for example: senet info se_resnet50; all models: senet models")
    word = words[0] if words else "se_resnet50"
    is_detector = word.lower().startswith(DETECTOR)
    name, net = _named(word[len(DETECTOR) :]) if is_detector else _subject(word)
    net = replace(net, num_classes=81) if is_detector else net
    kind = line.value("se", "model.se") or ""
    shown = options.ModelOnly(options.with_unit(net, kind))
    name = f"{DETECTOR * is_detector}{name}{f'+{kind}' if shown.model != net else ''}"
    parser = options.Parser("info", "MODEL", DESCRIPTION)
    parser.add_argument("MODEL", nargs="?", default="", help="a name, see: senet models; a run folder, a checkpoint")
    parser.option("se", default="", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")
    parser.option("json", action="store_true", help="print JSON")
    options.add_fields(parser, shown)
    found = parser.read(line.argv, shown)
    if "model.se_at" in found["named"] and shown.model.se is None:
        raise ConfigError("--se-at: has no effect, the network has no attention unit; choose one with --se")
    for path in ("model.image_size", "model.dropout"):
        if is_detector and path in found["named"]:
            raise ConfigError(f"--{path}: has no effect on a detector")
    net = options.apply(shown, found["fields"]).model

    if is_detector:
        from senet.detection.faster_rcnn import describe_detector

        cost = describe_detector(net, num_classes=net.num_classes)
    else:
        from senet.models.describe import describe

        cost = describe(net)
    if found["json"]:
        values = asdict(cost) | {
            "model": name,
            "se_share_params": cost.se_share_params,
            "se_share_macs": cost.se_share_macs,
        }
        print(json.dumps(values, indent=2))
        return 0
    size = "x".join(map(str, cost.image_size))
    print(f"{name}: {net.in_channels} x {size} image, {net.num_classes} classes\n")
    head = ("part", "output", "layers", "parameters", "of SE", "multiply-adds", "of SE")
    rows = [
        (
            r.part,
            f"{r.channels} x {r.height} x {r.width}",
            r.layers,
            f"{r.params:,}",
            f"{r.se_params:,}" if r.se_params else "",
            f"{r.macs:,}",
            f"{r.se_macs:,}" if r.se_macs else "",
        )
        for r in cost.rows
    ]
    total = (
        "in all",
        "",
        "",
        f"{cost.params:,}",
        f"{cost.params - cost.params_without_se:,}" if net.se else "",
        f"{cost.macs:,}",
        f"{cost.macs - cost.macs_without_se:,}" if net.se else "",
    )
    print(table([head, *rows, total], left=(0, 2)))
    if net.se:
        params, macs = 100 * cost.se_share_params, 100 * cost.se_share_macs
        print(
            f"\n{net.se.kind} units: {params:.2f} % of the parameters, {macs:.2f} % of the "
            f"multiply-adds; the plain twin has {cost.params_without_se:,} and {cost.macs_without_se:,}"
        )
        if cost.params_se_bias_true != cost.params_se_bias_false:
            print(f"parameters with SE biases {cost.params_se_bias_true:,}, without {cost.params_se_bias_false:,}")
    return 0


def _named(name: str) -> tuple[str, Net]:
    """A network's own name and its table; ConfigError for an unknown one."""
    name = canonical_name(name)
    return name, get_net(name)


def _subject(word: str) -> tuple[str, Net]:
    """The network of this name, else the one in this run folder or checkpoint."""
    path = Path(word).expanduser()
    try:
        return _named(word)
    except ConfigError:
        if not path.exists() and "/" not in word:
            raise
    from senet.runs.checkpoint import load

    recipe = load(path).recipe
    return recipe.name, recipe.model
