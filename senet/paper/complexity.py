"""What the paper prints about complexity, beside the networks it prints it of (arXiv:1709.01507v4, Tables 2 to 16).

The figures are the paper's own, rounded as it rounds them. Its operations are multiply-adds, but no single rule of what
to count gives all of them; ours are those of convolutions and fully connected layers, SE's included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from senet.models.net import Net
from senet.models.registry import get_net
from senet.units.config import NoSqueezeConfig, SEConfig

INCEPTION_RESNET = "no stacking of this network's blocks gives the paper's figure, and no definition was released"
SHUFFLENET_PARAMS = "the paper's figure looks truncated"
SHUFFLENET_MACS = "the nominal class of the ShuffleNet paper; SE's part, 0.6 M and the scaling's 1.6 M, agrees"
RATIO_8 = "30.59 exactly, 30.63 by the rule that gives the column's other figures"

PARAMS_DIGITS = 1
"""Decimals that the paper prints of millions of parameters."""

MACS_DIGITS = {1e9: 2, 1e6: 0}
"""Decimals that it prints of multiply-adds, by their unit."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One row of a table of the paper.

    params: in millions.  macs: multiply-adds, in units of `unit`.  None: the paper gives none.
    params_note, macs_note: why a figure cannot be reproduced; "" where it can.
    """

    table: int
    row: str
    net: Net
    params: float | None = None
    macs: float | None = None
    unit: float = 1e9
    params_note: str = ""
    macs_note: str = ""


def complexity() -> Iterator[Printed]:
    """The rows of Tables 2, 3, 10, 13, 15 and 16 that give parameters or operations, in the paper's order."""
    for name, title, plain, se in (
        ("resnet50", "ResNet-50", 3.86, 3.87),
        ("resnet101", "ResNet-101", 7.58, 7.60),
        ("resnet152", "ResNet-152", 11.30, 11.32),
        ("resnext50_32x4d", "ResNeXt-50", 4.24, 4.25),
        ("resnext101_32x4d", "ResNeXt-101", 7.99, 8.00),
        ("vgg16_bn", "VGG-16", 15.47, 15.48),
        ("bn_inception", "BN-Inception", 2.03, 2.04),
        ("inception_resnet_v2", "Inception-ResNet-v2", 11.75, 11.76),
    ):
        note = INCEPTION_RESNET if name == "inception_resnet_v2" else ""
        yield Printed(table=2, row=title, net=get_net(name), macs=plain, macs_note=note)
        yield Printed(table=2, row=f"SE-{title}", net=get_net(f"se_{name}"), macs=se, macs_note=note)

    for name, title, params, macs in (
        ("mobilenet", "MobileNet", 4.2, 569),
        ("se_mobilenet", "SE-MobileNet", 4.7, 572),
        ("shufflenet_g3", "ShuffleNet", 1.8, 140),
        ("se_shufflenet_g3", "SE-ShuffleNet", 2.4, 142),
    ):
        notes = (SHUFFLENET_PARAMS, SHUFFLENET_MACS) if "shuffle" in name else ("", "")
        yield Printed(
            table=3,
            row=title,
            net=get_net(name),
            params=params,
            macs=macs,
            unit=1e6,
            params_note=notes[0],
            macs_note=notes[1],
        )

    # Section 6: the units of the ablations have no biases.
    plain = get_net("resnet50")
    se = SEConfig(bias=False)
    for ratio, params in ((2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)):
        net = replace(plain, se=replace(se, reduction=ratio))
        yield Printed(table=10, row=f"r = {ratio}", net=net, params=params, params_note=RATIO_8 if ratio == 8 else "")
    yield Printed(table=10, row="original", net=plain, params=25.6)

    yield Printed(table=13, row="ResNet-50", net=plain, params=25.6, macs=3.86)
    for stage, params in ((2, 25.6), (3, 25.7), (4, 26.4)):
        net = replace(plain, se=replace(se, stages=(stage,)))
        yield Printed(table=13, row=f"SE_Stage_{stage}", net=net, params=params, macs=3.86)
    full = replace(plain, se=se)
    yield Printed(table=13, row="SE_All", net=full, params=28.1, macs=3.87)

    yield Printed(table=15, row="SE", net=full, params=28.1, macs=3.87)
    inner = replace(plain, se=replace(se, placement="conv3x3"))
    yield Printed(table=15, row="SE_3x3", net=inner, params=25.8, macs=3.86)

    yield Printed(table=16, row="ResNet-50", net=plain, params=25.6, macs=3.86)
    no_squeeze = replace(plain, se=NoSqueezeConfig(bias=False))
    yield Printed(table=16, row="NoSqueeze", net=no_squeeze, params=28.1, macs=4.27)
    yield Printed(table=16, row="SE", net=full, params=28.1, macs=3.87)


def agrees(ours: float, printed: float, digits: int) -> bool:
    """Whether a number of ours is the printed one: equal to the last of its decimals, or within half a percent of it.

    >>> agrees(7.6, 8.0, digits=2), agrees(7.996, 8.0, digits=2)
    (False, True)
    """
    return round(ours, digits) == printed or abs(ours / printed - 1) <= 0.005
