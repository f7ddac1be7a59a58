"""The CIFAR ResNets of arXiv:1512.03385, section 4.2, and their SE twins: depth 6n + 2, widths 16, 32, 64.

The default shortcut is option A, zero channels, as in that section; `shortcut="projection"` is option B. The paper's
ResNet-110 (Tables 4 and 5 of arXiv:1709.01507v4) is the pre-activation network; these are post-activation.
"""

from dataclasses import replace

from senet.models.net import ResidualNet, Stage, Stem
from senet.units.config import SEConfig

resnet20 = ResidualNet(
    stem=Stem(width=16, kernel=3, stride=1),
    pool="none",
    stages=(
        Stage(block="basic", depth=3, mid=16, out=16),
        Stage(block="basic", depth=3, mid=32, out=32, stride=2),
        Stage(block="basic", depth=3, mid=64, out=64, stride=2),
    ),
    shortcut="zero_pad",
    num_classes=10,
    image_size=32,
)
resnet32 = resnet20.depths(5, 5, 5)
resnet44 = resnet20.depths(7, 7, 7)
resnet56 = resnet20.depths(9, 9, 9)
resnet110 = resnet20.depths(18, 18, 18)

se_resnet20 = replace(resnet20, se=SEConfig())
se_resnet32 = replace(resnet32, se=SEConfig())
se_resnet44 = replace(resnet44, se=SEConfig())
se_resnet56 = replace(resnet56, se=SEConfig())
se_resnet110 = replace(resnet110, se=SEConfig())
