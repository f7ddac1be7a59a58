"""The ablations: Tables 10 to 16 of arXiv:1709.01507v4, sections 6 and 7.1, each one field of ResNet-50's unit.

By the fixed schedule of footnote 2 (270 epochs), with units without biases, as in section 6; the tables' own errors are
of the schedule by plateaus (about 300 epochs), so they lie 0.1 above the footnote's.
"""

from dataclasses import replace

from senet.config import UnitConfig
from senet.experiments.experiment import TOP1, TOP5, Experiment, Row
from senet.models.net import ResidualNet, Stage, Stem
from senet.models.resnet import resnet50
from senet.recipes.imagenet import ablation
from senet.units.config import NoSqueezeConfig, SEConfig

PAPER_RUN = "about 300 epochs of ImageNet on 8 GPUs, the rate cut at plateaus (section 6; hours are not given)"

SMALL = ResidualNet(
    stem=Stem(width=16, kernel=3, stride=1),
    pool="none",
    stages=(
        Stage(block="bottleneck", depth=2, mid=16, out=64),
        Stage(block="bottleneck", depth=2, mid=32, out=128, stride=2),
        Stage(block="bottleneck", depth=2, mid=64, out=256, stride=2),
    ),
    num_classes=10,
    image_size=32,
)
"""Stands in for ResNet-50 on images of 32 pixels: 20 layers in bottlenecks, stages 2 to 4, nothing of the paper's."""

SE = SEConfig(bias=False)

FIXED = {None: "23.21/6.53", SE: "22.20/6.00"}
"""The paper's errors by the schedule that is run here, as far as it gives them (footnote 2)."""


def _row(name: str, se: UnitConfig | None, top1: float, top5: float, minus: str) -> Row:
    name_of_net = "se_resnet50" if se else "resnet50"
    recipe = replace(ablation, name=name_of_net, model=replace(resnet50, se=se))
    note = f"{FIXED[se]} % in the paper by the fixed schedule of 270 epochs (footnote 2)" if se in FIXED else ""
    return Row(name=name, recipe=recipe, minus=minus, printed={TOP1: top1, TOP5: top5}, note=note)


def _target(number: int, title: str, *rows: tuple[str, UnitConfig | None, float, float], minus: str) -> Experiment:
    made = tuple(_row(*row, minus="" if row[0] == minus else minus) for row in rows)
    return Experiment(name=f"table{number}", title=title, rows=made, paper_run=PAPER_RUN, small=SMALL)


PLAIN = ("ResNet-50", None, 23.30, 6.55)
FULL = ("SE", SE, 22.28, 6.03)

table10 = _target(
    10,
    "reduction ratio r of SE-ResNet-50",
    ("r = 2", replace(SE, reduction=2), 22.29, 6.00),
    ("r = 4", replace(SE, reduction=4), 22.25, 6.09),
    ("r = 8", replace(SE, reduction=8), 22.26, 5.99),
    ("r = 16", SE, 22.28, 6.03),
    ("r = 32", replace(SE, reduction=32), 22.72, 6.20),
    ("original", None, 23.30, 6.55),
    minus="original",
)
table11 = _target(
    11,
    "squeeze operator of SE-ResNet-50",
    ("max", replace(SE, squeeze="max"), 22.57, 6.09),
    ("avg", SE, 22.28, 6.03),
    minus="avg",
)
table12 = _target(
    12,
    "excitation's non-linearity in SE-ResNet-50",
    ("ReLU", replace(SE, gate="relu"), 23.47, 6.98),
    ("tanh", replace(SE, gate="tanh"), 23.00, 6.38),
    ("sigmoid", SE, 22.28, 6.03),
    minus="sigmoid",
)
table13 = _target(
    13,
    "SE in single stages of ResNet-50",
    PLAIN,
    ("SE_Stage_2", replace(SE, stages=(2,)), 23.03, 6.48),
    ("SE_Stage_3", replace(SE, stages=(3,)), 23.04, 6.32),
    ("SE_Stage_4", replace(SE, stages=(4,)), 22.68, 6.22),
    ("SE_All", SE, 22.28, 6.03),
    minus="ResNet-50",
)
table14 = _target(
    14,
    "where the unit sits in ResNet-50's block",
    FULL,
    ("SE-PRE", replace(SE, placement="pre"), 22.23, 6.00),
    ("SE-POST", replace(SE, placement="post"), 22.78, 6.35),
    ("SE-Identity", replace(SE, placement="identity"), 22.20, 6.15),
    minus="SE",
)
table15 = _target(
    15,
    "SE after the 3x3 convolution",
    FULL,
    ("SE_3x3", replace(SE, placement="conv3x3"), 22.48, 6.02),
    minus="SE",
)
table16 = _target(
    16,
    "with and without the squeeze",
    PLAIN,
    ("NoSqueeze", NoSqueezeConfig(bias=False), 22.93, 6.39),
    FULL,
    minus="ResNet-50",
)
