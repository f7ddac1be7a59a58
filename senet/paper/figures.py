"""Figures 4, 6 and 7 of arXiv:1709.01507v4: learning curves, and what the gates of SE-ResNet-50 do, on ImageNet.

All are of Table 2's runs, so a folder that has those needs no others; the errors beside the curves are that table's.
The text does not say which networks Figure 4 draws: these four are from memory, and wait for a look at the picture.
"""

from dataclasses import replace

from senet.experiments.experiment import Experiment, Row
from senet.paper import imagenet
from senet.paper.ablations import SMALL


def _rows(*networks: str) -> tuple[Row, ...]:
    return tuple(row for row in imagenet.table2.rows if row.recipe is not None and row.recipe.name in networks)


_se = replace(_rows("se_resnet50")[0], minus="")

figure4 = Experiment(
    name="figure4",
    title="learning curves of networks and their SE twins on ImageNet",
    rows=_rows(
        *("resnet50", "se_resnet50", "resnet152", "se_resnet152"),
        *("resnext50_32x4d", "se_resnext50_32x4d", "bn_inception", "se_bn_inception"),
    ),
    paper_run=imagenet.PAPER_RUN,
    shows="curves",
)
figure6 = Experiment(
    name="figure6",
    title="mean gates of SE-ResNet-50 for goldfish, pug, plane and cliff",
    rows=(_se,),
    paper_run=imagenet.PAPER_RUN,
    small=SMALL,
    shows="gates",
)
figure7 = Experiment(
    name="figure7",
    title="mean and spread of SE-ResNet-50's gates for goldfish and plane",
    rows=(_se,),
    paper_run=imagenet.PAPER_RUN,
    small=SMALL,
    shows="gates",
)
