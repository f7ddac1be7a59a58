"""The student's reproduction: CIFAR-10, 300 epochs, batch 64, learning rate 0.1; ResNet-20, SE-ResNet-20 and deeper.

Its report gives curves and words, no table: about 90 % accuracy within the first 150 epochs, SE-ResNet-20 above
ResNet-20, and the deeper SE network above both (50 layers in its text, 56 in its captions; 56 is one of the family).
"""

from dataclasses import replace

from senet.models.registry import get_net
from senet.paper.target import Row, Target
from senet.recipes import student as recipes


def _row(name: str, network: str, minus: str = "") -> Row:
    return Row(name=name, recipe=replace(recipes.student, name=network, model=get_net(network)), minus=minus)


student = Target(
    name="student",
    title="the student's CIFAR-10 networks",
    rows=(
        _row("ResNet-20", "resnet20"),
        _row("SE-ResNet-20", "se_resnet20", minus="ResNet-20"),
        _row("ResNet-56", "resnet56"),
        _row("SE-ResNet-56", "se_resnet56", minus="ResNet-56"),
    ),
    hours="300 epochs on one GPU (PyTorch 1.2; hours are not given)",
)
