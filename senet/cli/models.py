"""`senet models`: list the networks."""

from __future__ import annotations

from senet.cli.output import print_json, table
from senet.cli.parse import Parser
from senet.errors import ConfigError
from senet.models.registry import list_models, nets, plain_twin

DESCRIPTION = """List the networks with parameters and multiply-adds at their own image size and number of classes."""

EXAMPLES = ("senet models", "senet models 'se_*'", "senet models '*resnet50*' --json")


def run(argv: list[str]) -> int:
    """Run the command."""
    parser = Parser("models", "[PATTERN]", DESCRIPTION, examples=EXAMPLES)
    parser.word("PATTERN", count="?", help="a shell pattern such as 'se_*'")
    parser.json()
    line = parser.read(argv)
    names = list_models(line["PATTERN"] or "*")
    if not names:
        raise ConfigError(f"PATTERN: no network matches {line['PATTERN']!r}; all networks: senet models")

    from senet.models.describe import describe

    found = [(name, nets()[name], describe(nets()[name])) for name in names]
    if line["json"]:
        print_json(
            [
                {
                    "model": name,
                    "params": cost.params,
                    "macs": cost.macs,
                    "num_classes": net.num_classes,
                    "image_size": net.image_size,
                    "se": net.se.kind if net.se else None,
                    "plain_twin": plain_twin(name),
                }
                for name, net, cost in found
            ]
        )
        return 0
    head = ("network", "parameters", "multiply-adds", "classes", "pixels")
    rows = [
        (name, f"{cost.params:,}", f"{cost.macs / 1e6:,.1f} M", str(net.num_classes), str(net.image_size))
        for name, net, cost in found
    ]
    print(table([head, *rows]))
    return 0
