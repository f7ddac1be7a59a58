"""The student's reproduction: CIFAR-10, 300 epochs, batch 64, learning rate 0.1; ResNet-20, SE-ResNet-20 and deeper.

Its report gives curves and words, no table: about 90 % accuracy within the first 150 epochs, SE-ResNet-20 above
ResNet-20, and the deeper SE network above both (50 layers in its text, 56 in its captions; 56 is one of the family).
Its listing is of the CIFAR network with reduction 16 that is public as moskomule/senet.pytorch, whose shortcuts between
stages are 1x1 convolutions with batch norm and whose units have no biases; so they are here.
"""

from dataclasses import replace

from senet.experiments.experiment import Experiment, Row
from senet.models.registry import get_net
from senet.recipes import student as recipes
from senet.units.config import SEConfig


def _row(name: str, network: str, minus: str = "", note: str = "") -> Row:
    net = get_net(network)
    model = replace(net, shortcut="projection", se=SEConfig(bias=False) if net.se else None)
    return Row(name=name, recipe=replace(recipes.student, name=network, model=model), minus=minus, note=note)


student = Experiment(
    name="student",
    title="the student's CIFAR-10 networks",
    rows=(
        _row("ResNet-20", "resnet20"),
        _row("SE-ResNet-20", "se_resnet20", minus="ResNet-20"),
        _row("ResNet-56", "resnet56"),
        _row("SE-ResNet-56", "se_resnet56", minus="ResNet-56", note="in the report above SE-ResNet-20 too"),
    ),
    paper_run="300 epochs on a server's GPU, PyTorch 1.2; hours are not given",
)
