"""Tables 4 and 5 of arXiv:1709.01507v4: CIFAR-10 and CIFAR-100, each network as its original trains it.

The paper's plain figures are the originals' own. For Shake-Even that is 15.85 without Cutout, while SE's 15.41 is with
it; Cutout's authors report 15.20 for the plain network with it. The rows here have Cutout both.
"""

from dataclasses import replace

from senet.experiments.experiment import TOP1, Experiment, Row
from senet.models.registry import get_net
from senet.recipes.preact import preact_cifar10, preact_cifar100
from senet.recipes.recipe import Recipe
from senet.recipes.shake import shake_cifar10, shake_cifar100
from senet.recipes.wrn import wrn_cifar10, wrn_cifar100

CUTOUT = "the paper's figure for the plain network is without Cutout; with it the original reports 15.20"


def _twins(title: str, network: str, recipe: Recipe, plain: float, se: float, note: str = "") -> tuple[Row, Row]:
    def row(name: str, network: str, error: float, minus: str, note: str) -> Row:
        own = replace(recipe, name=network, model=get_net(network))
        return Row(name=name, recipe=own, minus=minus, printed={TOP1: error}, note=note)

    return row(title, network, plain, "", note), row(f"SE-{title}", f"se_{network}", se, title, "")


table4 = Experiment(
    name="table4",
    title="CIFAR-10",
    rows=(
        *_twins("ResNet-110", "preresnet110", preact_cifar10, 6.37, 5.21),
        *_twins("ResNet-164", "preresnet164", preact_cifar10, 5.46, 4.39),
        *_twins("WRN-16-8", "wrn_16_8", wrn_cifar10, 4.27, 3.88),
        *_twins("Shake-Shake 26 2x96d + Cutout", "shake_shake_26_2x96d", shake_cifar10, 2.56, 2.12),
    ),
    paper_run="164 to 1800 epochs; neither hours nor hardware are given",
)

table5 = Experiment(
    name="table5",
    title="CIFAR-100",
    rows=(
        *_twins("ResNet-110", "preresnet110", preact_cifar100, 26.88, 23.85),
        *_twins("ResNet-164", "preresnet164", preact_cifar100, 24.33, 21.31),
        *_twins("WRN-16-8", "wrn_16_8", wrn_cifar100, 20.43, 19.14),
        *_twins("Shake-Even 29 2x4x64d + Cutout", "shake_even_29_2x4x64d", shake_cifar100, 15.85, 15.41, CUTOUT),
    ),
    paper_run="164 to 1800 epochs; neither hours nor hardware are given",
)
