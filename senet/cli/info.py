"""`senet info`: the stages of a network, its cost, and the share of its attention units."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from senet.cli.checkpoint import add_code, use_code
from senet.cli.output import print_json, table
from senet.cli.parse import Line, ModelOnly, Parser
from senet.errors import ConfigError
from senet.models.net import Net
from senet.models.registry import canonical_name, get_net
from senet.recipes.registry import with_unit

DESCRIPTION = """Print parameters, multiply-adds, the units' share, and a table by stage like the paper's Table 1.

Multiply-adds are those of convolutions and fully connected layers, the SE units' included. Fields of the network can
be set: --se.reduction 8, --stride-on 3x3, --num-classes 10, --se eca.

fasterrcnn_NETWORK_fpn is a Faster R-CNN with a feature pyramid on that network (Table 7), and so are
maskrcnn_NETWORK_fpn and retinanet_NETWORK_fpn: 80 classes, 800 x 1344 pixels, 1000 boxes. A run folder or a checkpoint
means the network that was trained."""

EXAMPLES = (
    "senet info se_resnet50",
    "senet info se_resnet50 --se.reduction 8 --num-classes 10",
    "senet info resnet50 --se eca --json",
)
COMMON = ("model.num_classes", "model.in_channels", "model.image_size", "model.se.reduction", "model.se.placement")
COMMON += ("model.se.stages", "model.stride_on", "model.pool", "model.shortcut")


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("info", "MODEL", DESCRIPTION, base=_shown, examples=EXAMPLES, common=COMMON)
    parser.word("MODEL", help="a name, see: senet models; a run folder, a checkpoint")
    parser.option("se", metavar="UNIT", help="attention unit: se, no_squeeze, eca, shared or none")
    add_code(parser)
    parser.json()
    line = parser.read(argv)
    net = line.config.model
    name, plain = _subject(line["MODEL"])
    name += f"+{line['se']}" if line.base.model != plain else ""
    if "model.se_at" in line.named and net.se is None:
        raise ConfigError("--se-at: has no effect, the network has no attention unit; choose one with --se")

    from senet.foreign_models import describe_network

    cost = describe_network(net)
    if line["json"]:
        values = asdict(cost) | {
            "model": name,
            "se_share_params": cost.se_share_params,
            "se_share_macs": cost.se_share_macs,
        }
        print_json(values)
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
        "total",
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


def _shown(line: Line) -> ModelOnly:
    """Return the network whose fields can be set."""
    use_code(line)
    _, net = _subject(line.values.get("MODEL") or "se_resnet50")
    return ModelOnly(with_unit(net, line["se"]))


def _subject(word: str) -> tuple[str, Net]:
    """Return the name and the network of that name, run folder or checkpoint."""
    try:
        name = canonical_name(word)
        return name, get_net(name)
    except ConfigError:
        if not Path(word).expanduser().exists() and "/" not in word:
            raise
    from senet.runs.checkpoint import load

    recipe = load(Path(word).expanduser()).recipe
    return recipe.name, recipe.model
