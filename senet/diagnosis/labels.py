"""Names of units as the paper writes them."""

from __future__ import annotations

import re

STAGE = re.compile(r"(?:^|\.)((?:layer|stage|s)\d+|(?:stages|blocks|features)\.\d+)\.")
BLOCK = re.compile(r"^(?:block|b)?(\d+)(?=\.|$)")


def stage_of(name: str) -> str:
    """Return the part of a module's name that identifies the stage, or "".

    >>> stage_of("features.stage2.block1.se"), stage_of("blocks.4.0.se"), stage_of("gate")
    ('stage2', 'blocks.4', '')
    """
    match = STAGE.search(name)
    return match[1] if match else ""


def label(name: str) -> str:
    """Return the paper's name of a unit, from that of its module; see `UnitGates.label`."""
    stage = stage_of(name)
    block = BLOCK.match(name.partition(f"{stage}.")[2])
    kind = re.fullmatch(r"(layer|stage)(\d+)", stage)
    if not block or not kind:
        return name
    # torchvision and timm count stages from 1 and blocks from 0, the paper from 2 and from 1.
    ahead = kind[1] == "layer"
    return f"SE_{int(kind[2]) + ahead}_{int(block[1]) + ahead}" + "".join(name.partition("#")[1:])
