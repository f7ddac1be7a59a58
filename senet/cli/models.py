"""`senet models`: the networks by name."""

from __future__ import annotations

import json

from senet.cli.parse import Parser
from senet.errors import ConfigError
from senet.models.registry import list_models, nets, plain_twin

DESCRIPTION = """List the networks, with parameters and multiply-adds at their own image size and number of classes."""


def run(argv: list[str]) -> int:
    """The command."""
    parser = Parser("models", "[PATTERN]", DESCRIPTION)
    parser.word("PATTERN", count="?", help="a shell pattern such as 'se_*'")
    parser.switch("json", help="print JSON")
    found = parser.read(argv)
    names = list_models(found["PATTERN"])
    if not names:
        raise ConfigError(f"no network is called {found['PATTERN']!r}; all of them: senet models")

    from senet.models.describe import describe

    rows = []
    if not found["json"]:
        print(f"{'network':<26}{'parameters':>12}{'multiply-adds':>16}{'classes':>9}{'pixels':>8}")
    for name in names:
        net, cost = nets()[name], describe(nets()[name])
        rows.append(
            {
                "model": name,
                "params": cost.params,
                "macs": cost.macs,
                "num_classes": net.num_classes,
                "image_size": net.image_size,
                "se": net.se.kind if net.se else None,
                "plain_twin": plain_twin(name),
            }
        )
        if not found["json"]:
            macs = f"{cost.macs / 1e6:,.1f} M"
            print(f"{name:<26}{cost.params:>12,}{macs:>16}{net.num_classes:>9}{net.image_size:>8}", flush=True)
    if found["json"]:
        print(json.dumps(rows, indent=2))
    return 0
